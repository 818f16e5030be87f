"""Every public function says what it takes, returns and raises; every module what enters and what leaves."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "srat_fast").rglob("*.py"), *(ROOT / "kernels" / "srat_kernels").rglob("*.py")])


def public_functions(tree: ast.AST, inside: str = "") -> list[tuple[str, ast.FunctionDef]]:
    """Module-level functions and methods of public classes whose names are public."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not inside:
            found += public_functions(node, node.name + ".")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found.append((inside + node.name, node))
    return found


def raised(node: ast.FunctionDef) -> set[str]:
    """Names of the exceptions that a function raises itself."""
    names = set()
    for child in ast.walk(node):
        if (
            isinstance(child, ast.Raise)
            and isinstance(child.exc, ast.Call)
            and isinstance(child.exc.func, ast.Name)
        ):
            names.add(child.exc.func.id)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_functions_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} has no docstring"
    protocols = {n.name for n in tree.body if isinstance(n, ast.ClassDef) and "Protocol" in ast.unparse(n)}
    commands = path.parent.name == "cli" and path.name not in ("options.py", "show.py", "app.py")
    for name, node in public_functions(tree):
        text = ast.get_docstring(node) or ""
        assert text, f"{path.name}: {name} has no docstring"
        if (
            name.partition(".")[0] in protocols
            or commands
            or any("property" in ast.unparse(d) for d in node.decorator_list)
        ):
            continue  # an interface, a command (typer documents its options) or an attribute
        arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        for argument in arguments:
            if argument not in ("self", "cls") and "->" not in text.splitlines()[0]:
                assert re.search(rf"\b{argument}: ", text), (
                    f"{path.name}: {name} does not say what {argument} is"
                )
        for exception in raised(node) - {"AttributeError"}:
            assert exception in text, f"{path.name}: {name} does not say that it raises {exception}"
