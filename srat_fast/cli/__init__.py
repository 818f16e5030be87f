"""The command line: parse, call the library, print. torch is imported by commands only."""

from srat_fast.cli.app import main

__all__ = ["main"]
