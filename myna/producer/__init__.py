"""Producers of batches: `myna feed`, on this host or on any other that reaches the container."""
