"""Evaluation: clean and adversarial accuracy of a model, in fp32, eager, eval mode."""
