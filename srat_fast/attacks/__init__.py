"""Attacks: the threat model, FGSM, PGD and CW in it, AutoAttack through its package, and all of them by name."""
