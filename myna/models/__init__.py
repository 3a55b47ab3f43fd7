"""Recognisers: front ends, encoders, tokenizers, decoding."""
