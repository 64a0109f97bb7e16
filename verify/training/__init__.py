"""Text, one training loop, many models at once."""
