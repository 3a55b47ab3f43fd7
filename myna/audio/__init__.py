"""Recordings: decoding, features, augmentation."""
