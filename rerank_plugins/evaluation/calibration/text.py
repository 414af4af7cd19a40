"""A calibration as a TOML table, and its report as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from rerank_plugins.evaluation.calibration.calibrate import CalibrationReport
from rerank_plugins.wrappers.calibrated import Calibration

__all__ = ["as_dict", "as_toml"]


def as_toml(report: CalibrationReport) -> str:
    """Return a TOML file with the table `[calibration]`, and where it comes from as comments."""
    after = report.after
    counts = f"{report.queries:,} queries, {after.pairs:,} candidates, {after.relevant:,} relevant"
    errors = f"{report.before.error.mean:.4f} before, {after.error.mean:.4f} after"
    lines = [
        f"# Fitted on {json.dumps(after.sets)}: {counts}.",
        f"# Expected calibration error on held-out queries: {errors}.",
        "[calibration]",
        *(f"{name} = {_value(value)}" for name, value in report.calibration.table().items()),
    ]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    # Of these values JSON is TOML, but for DEL, which only TOML refuses.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def as_dict(report: CalibrationReport) -> dict[str, object]:
    """Return the report JSON-ready."""
    calibration: Calibration = report.calibration
    fields = {name: getattr(report, name) for name in report.__dataclass_fields__}
    return {
        **fields,
        "calibration": calibration.table(),
        "losses": dict(report.losses),
        "untried": dict(report.untried),
        "before": asdict(report.before),
        "after": asdict(report.after),
        "tests": [
            {"before": asdict(before), "after": asdict(after)} for before, after in report.tests
        ],
        "thresholds": [asdict(threshold) for threshold in report.thresholds],
        "warnings": list(report.warnings),
    }
