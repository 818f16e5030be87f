"""The layers (docs/contributing.md): imports run downward only, optional packages enter through one file each."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Lower number = lower layer; a module may import its own layer's package and any lower layer.
LAYERS = {
    "errors": -2, "registry": -1, "seeds": 0, "methods": 0, "plugins": 0, "datasets": 0, "tables": 0,
    "record": 0.5, "console": 1, "ranks": 1, "recipe": 1, "progress": 1.2,
    "models": 1.5, "data": 2, "hardware": 2, "figures": 2, "published": 2,
    "theory": 3,
    "attacks": 3, "losses": 3,
    "sharing": 3, "evaluation": 4, "training": 5, "sweep": 6, "report": 6, "cli": 7, "__main__": 8,
}  # fmt: skip
STANDARD_ONLY = ("errors", "registry", "seeds", "plugins", "methods", "datasets", "recipe", "record")
#: scikit-learn and scipy are not among them: every installation has them, and several rooms compute with them.
OPTIONAL = (
    "triton",
    "jinja2",
    "ffcv",
    "numba",
    "cv2",
    "ray",
    "matplotlib",
    "tensorboard",
    "pyautoattack",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pyarrow",
    "optuna",
    "timm",
)


def sources() -> list[Path]:
    return sorted((ROOT / "srat_fast").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every dotted module that a file imports, at any depth of the code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def room(path: Path) -> str:
    """The layer's name: the first part below srat_fast."""
    return path.relative_to(ROOT / "srat_fast").parts[0].removesuffix(".py")


def own(module: str) -> str | None:
    """The room of an imported srat_fast module, None for others."""
    parts = module.split(".")
    return parts[1] if parts[0] == "srat_fast" and len(parts) > 1 else None


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    here = room(path)
    if here == "__init__":  # the public surface may name any room
        return
    for module in imports(path):
        there = own(module)
        if there is None or there == here:
            continue
        if here == "reference":
            assert there in ("errors", "recipe", "methods", "data", "models", "seeds"), (
                f"the reference imports {module}"
            )
        elif there == "reference":
            assert path.name == "plain.py", f"only its engine may import the reference, not {path}"
        elif module == "srat_fast":
            continue
        else:
            assert LAYERS[there] < LAYERS[here], f"{path.relative_to(ROOT)} ({here}) imports {module} upward"


@pytest.mark.parametrize("path", [p for p in sources() if room(p) in STANDARD_ONLY], ids=lambda p: p.name)
def test_the_base_needs_the_standard_library_only(path: Path) -> None:
    for module in imports(path):
        top = module.split(".")[0]
        assert top == "srat_fast" or top in sys.stdlib_module_names, f"{path.name} imports {module}"


def test_the_kernels_know_nothing_of_srat_fast() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        assert not any(module.startswith("srat_fast") for module in imports(path)), path
    assert not (ROOT / "kernels" / "__init__.py").exists(), "a package named kernels would shadow another one"


def test_optional_packages_enter_through_one_file_each() -> None:
    users = defaultdict(set)
    for path in sources():
        for module in imports(path):
            name = "tensorboard" if "tensorboard" in module else module.split(".")[0]
            users[name].add(str(path.relative_to(ROOT)))
    for package in OPTIONAL:
        assert len(users[package]) <= 1, f"{package}: {users[package]}"


@pytest.mark.parametrize(
    "module",
    [
        "srat_fast",
        "srat_fast.cli",
        "srat_fast.report.summary",
        "srat_fast.sweep.local",
        "srat_fast.sweep.table",
        "srat_fast.report.build",
        "srat_fast.data.plan",
        "srat_fast.figures.canvas",
        "srat_fast.figures.analysis",
        "srat_fast.theory.files",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
