"""Separation (supervised contrastive) loss and weighted margin loss: formula, kernels, op."""
