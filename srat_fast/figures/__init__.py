"""Figures: numbers enter, pictures leave. Imports no torch; matplotlib enters through canvas.py only."""
