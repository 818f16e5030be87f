"""Separation (supervised contrastive) loss and weighted margin loss: formula, op."""
