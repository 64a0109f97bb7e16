"""Training: corpora, the training loop for one model, and ensembles of models trained together."""
