"""Measurement of torch models: moments, attention and heads."""
