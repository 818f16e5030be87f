"""What makes two runs the same one: a recipe, its data and this code enter; short fingerprints leave."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import srat_fast
from srat_fast.data.verify import expanded
from srat_fast.recipe import Recipe

#: Rooms of the package whose code decides no number of a run.
_SILENT = ("cli", "sweep", "report", "figures", "sharing", "theory", "published.py")
_DIGITS = 12


@functools.cache
def code_version() -> str:
    """The version of the code that trains and judges.

    Returns:
        The package's version and a fingerprint over the sources that decide a run's numbers (commands, sweeps and
        reports do not), so that two checkouts of one version differ where it matters, and only there.
    """
    package = Path(srat_fast.__file__).parent
    places = (package.parent / "srat_kernels", package.parent / "kernels" / "srat_kernels")
    kernels = [directory for directory in places if directory.is_dir()]
    digest = hashlib.sha256()
    for root in (package, *kernels):
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root)
            if root is not package or relative.parts[0] not in _SILENT:
                digest.update(f"{relative}\0".encode() + path.read_bytes())
    return f"{srat_fast.__version__}+{digest.hexdigest()[:8]}"


@functools.cache
def data_identity(name: str, root: str) -> str:
    """Which images a run sees, as far as its recipe does not say.

    Args:
        name: the data set.
        root: its directory or file.

    Returns:
        "" for sets with a fixed content; for one's own files a fingerprint of their names and sizes.
    """
    path = expanded("data.root", root)
    if name == "folder" and path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file()]
    elif path.is_file():
        files = [path]
    else:
        return ""
    listing = sorted(f"{p.relative_to(path.parent)}\0{p.stat().st_size}" for p in files)
    content = "\n".join(listing).encode(errors="surrogateescape")  # names are bytes
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def run_identity(recipe: Recipe, code: str) -> str:
    """The id of a run.

    Args:
        recipe: any.
        code: as `code_version` gives it.

    Returns:
        12 hex digits over recipe, data and code.
    """
    text = f"{recipe.fingerprint()}\0{data_identity(recipe.data.name, recipe.data.root)}\0{code}"
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
