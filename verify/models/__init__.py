"""A tree as a torch module, and models of the transformers library as trees."""
