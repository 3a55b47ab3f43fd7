"""Augmentation to listen to and look at."""
