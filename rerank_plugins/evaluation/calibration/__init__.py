"""Fit curves from scores to probabilities, and measure what they are worth."""

from rerank_plugins.evaluation.calibration.calibrate import (
    CalibrationReport,
    Measured,
    calibrate,
)
from rerank_plugins.evaluation.calibration.fit import fit
from rerank_plugins.evaluation.calibration.thresholds import Threshold

__all__ = ["CalibrationReport", "Measured", "Threshold", "calibrate", "fit"]
