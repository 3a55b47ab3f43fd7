"""Augmentation: one transform a file."""
