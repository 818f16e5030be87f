"""`srat-fast` whose trials are stand-ins: what a test of the driver starts as a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from srat_fast.cli import main
from srat_fast.sweep import process

process.CHILD = [sys.executable, str(Path(__file__).with_name("standin.py"))]
main(sys.argv[1:])
