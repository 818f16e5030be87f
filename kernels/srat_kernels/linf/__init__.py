"""Sign step, projection onto the epsilon ball, clamp to [0, 1]: formula, kernel, op."""
