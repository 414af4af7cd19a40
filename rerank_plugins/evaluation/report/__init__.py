"""An evaluation as people read it: JSON, Markdown, and a page that needs nothing else."""

from rerank_plugins.evaluation.report.page import as_html
from rerank_plugins.evaluation.report.text import as_json, as_markdown

__all__ = ["as_html", "as_json", "as_markdown"]
