"""`rerank-plugins doctor`: what would score, and whether it works."""
