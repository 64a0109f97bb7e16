"""Runs carried out on one machine or many; their rows, kept, moved, fitted and reported."""
