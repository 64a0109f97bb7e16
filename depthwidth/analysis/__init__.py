"""Readings of a tree: propagated moments, sweeps, saturation, diagnosis, description, published tables."""
