"""Independent random streams of a run: one 63-bit seed a purpose."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *purpose: object) -> int:
    """The seed of one named stream, so that (say) a longer attack does not shift the data order."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
