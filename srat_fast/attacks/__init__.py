"""Attacks: the threat model and projected gradient descent in it."""
