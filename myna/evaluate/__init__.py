"""Scores of a model on a dataset version."""
