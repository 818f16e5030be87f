"""Drawing. Imports no torch; matplotlib is imported by canvas.py only."""
