"""Training: schedule (pure), one step, and the trainer that runs epochs, evaluation and records."""
