"""Losses: class weights and margins, the terms of the objective, and the objective of a method's row."""

from srat_fast.registry import term

term.declare("srat_fast.losses.terms", "ce", "focal", "ldam", "separation")
