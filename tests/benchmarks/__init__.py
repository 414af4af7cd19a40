"""Speed, memory and agreement of our engines, compared with other rerankers."""
