"""Everything that makes scores: local models and remote servers."""
