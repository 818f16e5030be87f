"""The reference: Algorithm 1 as plain mathematics, to judge the fast path by.

It shares no attack, loss, schedule or step code with it; `--engine reference` runs it through training/plain.py.
"""

from srat_fast.reference.algorithm import Reference

__all__ = ["Reference"]
