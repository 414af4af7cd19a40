"""Speed, memory and agreement of our engines beside other rerankers, in one run."""
