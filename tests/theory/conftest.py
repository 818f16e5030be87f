"""Property tests here are the same in every run, and are not timed: the machine may be busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("theory", deadline=None, derandomize=True)
settings.load_profile("theory")
