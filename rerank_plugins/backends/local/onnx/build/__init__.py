"""Builds the graph of a model from the weights of its checkpoint."""
