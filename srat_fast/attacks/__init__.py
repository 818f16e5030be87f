"""Attacks: threat models, inner losses, FGSM, PGD and CW on them, AutoAttack through its package, and all by name."""

from srat_fast.registry import inner

inner.declare("srat_fast.attacks.inner", "ce", "objective", "margin", "kl")

#: What `--attack` takes, for help and error messages.
NAMES = (
    "clean, fgsm, pgd-K, cw-K, pgd-KxR, cw-KxR (K steps, R restarts), pgd-K@S (logits times S), noise-R, apgd-ce, "
    "apgd-dlr, apgd-t, fab-t, square, autoattack"
)
