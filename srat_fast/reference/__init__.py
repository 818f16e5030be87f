"""The reference: Algorithm 1 written slowly and plainly, to judge the fast path by.

Shares no attack, loss, schedule or step code with it; `--engine reference` runs it.
"""

from srat_fast.reference.engine import ReferenceEngine

__all__ = ["ReferenceEngine"]
