"""Reports of an evaluation: JSON, Markdown and a self-contained HTML page."""

from rerank_plugins.evaluation.report.page import as_html
from rerank_plugins.evaluation.report.text import as_json, as_markdown

__all__ = ["as_html", "as_json", "as_markdown"]
