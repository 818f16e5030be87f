"""Attacks: threat models, inner losses, FGSM, PGD and CW on them, AutoAttack through its package, and all by name."""

from srat_fast.registry import inner

inner.declare("srat_fast.attacks.inner", "ce", "objective", "margin", "kl")
