"""Sweeps: a spec enters; many trained runs and a table with their statistics leave."""
