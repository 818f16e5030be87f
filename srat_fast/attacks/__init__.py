"""Attacks: the threat model, FGSM, PGD and CW in it, AutoAttack through its package, and all of them by name."""

#: What `--attack` takes, for help and error messages.
NAMES = (
    "clean, fgsm, pgd-K, cw-K, pgd-KxR, cw-KxR (K steps, R restarts), pgd-K@S (logits times S), noise-R, apgd-ce, "
    "apgd-dlr, apgd-t, fab-t, square, autoattack"
)
