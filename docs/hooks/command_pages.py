"""Reference of the command line: a Markdown section for each command of the typer application."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer
from recipe_pages import prose, table

from srat_fast.cli.app import app, main


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command below a group, in the order of `--help`.

    Args:
        command: a typer command or group.
        path: how it is called, such as "srat-fast data".

    Returns:
        Pairs (how it is called, command).
    """
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from commands(inner, f"{path} {name}")
        else:
            yield f"{path} {name}", inner


def _default(parameter: Any) -> str:
    shown = parameter.show_default
    if isinstance(shown, str):
        return prose(shown)
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or callable(value):
        return ""
    return f"`{value}`"


def _row(parameter: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    elif parameter.metavar and not getattr(parameter, "is_flag", False):
        names += f" `{parameter.metavar}`"
    return names, prose(getattr(parameter, "help", "") or ""), _default(parameter)


def command_reference() -> str:
    """Arguments and options of every command.

    Returns:
        One heading and one table a command.
    """
    parts = []
    for path, command in commands(typer.main.get_command(app), "srat-fast"):
        text = " ".join((command.help or "").split("\f")[0].split())
        parts.append(f"## {path}\n\n{prose(text)}")
        rows = [_row(p) for p in command.params if p.name != "help"]
        if rows:
            parts.append(table(("argument or option", "meaning", "default"), rows))
    return "\n\n".join(parts)


def exit_codes() -> str:
    """What `main` says of its exit codes.

    Returns:
        A table, from the `Raises` part of its docstring ("0 done, 1 a run failed, ...").
    """
    text = " ".join((inspect.getdoc(main) or "").partition("SystemExit: ")[2].split())
    pairs = re.findall(r"(\d+) ([^,;.]+)", text)
    return table(("code", "meaning"), [(f"`{code}`", prose(meaning.strip())) for code, meaning in pairs])
