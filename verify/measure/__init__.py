"""Moments, attention and heads of live models."""
