"""Sweeps: many runs from one spec, run under claims, retried, and summed up in a table."""
