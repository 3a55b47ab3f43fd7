"""Batches: the epoch plan, make_batch and the loader."""
