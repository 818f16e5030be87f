"""Losses: class weights and margins, the terms of the objective, and the objective of a method's row."""
