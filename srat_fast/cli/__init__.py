"""The command line: options enter; the library is called and its answer printed. torch is imported by commands only."""

from srat_fast.cli.app import main

__all__ = ["main"]
