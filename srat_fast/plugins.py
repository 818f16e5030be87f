"""Plug-ins: a user's own file that registers methods, terms, networks, threat models or inner losses.

A plug-in is code, and runs only where the user names its file: `--plugin`, the field `plugin` of a recipe or spec that
is given, or `plugin=` in Python. A run directory keeps a copy, which never runs by itself.
"""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from srat_fast import registry
from srat_fast.errors import TrainingFailure, UserError

#: Folder of a run directory, or beside a trial's recipe, that holds the copies.
FOLDER = "plugin"
_REGISTRIES = {
    "method": registry.method,
    "model": registry.model,
    "threat": registry.threat,
    "term": registry.term,
    "inner": registry.inner,
}
#: what a plug-in may not add to
_CLOSED = {"dataset": registry.dataset}


@dataclass(frozen=True)
class Plugin:
    """A file that was run, or only described: what it was, and what it registered as (registry, name)."""

    path: str
    sha256: str
    content: bytes
    names: tuple[tuple[str, str], ...]
    ran: bool = True


#: What `plugin=` of a function takes.
Plugins = str | Path | Sequence[str | Path]

_by_content: dict[str, Plugin] = {}
#: absolute path -> what was loaded from it, so that a file that is edited while a run goes on changes nothing.
_by_path: dict[str, Plugin] = {}


def load(path: str | Path) -> Plugin:
    """Run a plug-in's file, unless its content was run before in this process.

    Args:
        path: a Python file.

    Returns:
        What it registered.

    Raises:
        UserError: it cannot be read, raises, registers nothing or a name that is taken (with the line; nothing of it
            stays registered), or it has changed since this process loaded it.
    """
    absolute = str(Path(path).expanduser().absolute())
    try:
        content = Path(absolute).read_bytes()
        content.decode()
    except OSError as error:
        raise UserError("--plugin", f"cannot be read: {error.strerror}", str(path)) from None
    except UnicodeDecodeError:
        raise UserError("--plugin", "is not UTF-8", str(path)) from None
    sha256 = hashlib.sha256(content).hexdigest()
    known = _by_path.get(absolute)
    if known is not None and known.sha256 != sha256:
        raise UserError(
            "--plugin", "has changed since this process loaded it; start a new process", str(path)
        )
    if not _has_run(sha256):
        if sha256 in _by_content:
            _remove(_by_content[sha256].names)
        _by_content[sha256] = Plugin(absolute, sha256, content, _run(absolute, content, sha256))
    _by_path[absolute] = _by_content[sha256]
    return _by_path[absolute]


def _has_run(sha256: str) -> bool:
    return sha256 in _by_content and _by_content[sha256].ran


def describe(entry: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
    """Make known what a plug-in registers without running it: for plans and tables of runs that have it.

    Args:
        entry: as `description` gave it.
        rows: name -> row, of its methods; its other entries can be named, and not used.
    """
    if entry["sha256"] not in _by_content:
        names = [(kind, name) for kind, name in entry["names"] if name not in _REGISTRIES[kind]]
        for kind, name in names:
            if kind == "method":
                registry.method(name)(rows[name])
            else:
                _REGISTRIES[kind].declare(__name__, name)
        content = entry["text"].encode()
        _by_content[entry["sha256"]] = Plugin(
            entry["path"], entry["sha256"], content, tuple(names), ran=False
        )
    _by_path.setdefault(entry["path"], _by_content[entry["sha256"]])


def description(path: str) -> dict[str, Any]:
    """A plug-in of a recipe as plain values, its methods aside."""
    plugin = loaded(path)
    names = [list(name) for name in plugin.names]
    return {"path": path, "sha256": plugin.sha256, "text": plugin.content.decode(), "names": names}


def load_all(paths: Plugins) -> None:
    """Load what `plugin=` of a function or `--plugin` of a command names."""
    for path in (paths,) if isinstance(paths, (str, Path)) else paths:
        load(path)


def beside(file: Path, paths: Any) -> Any:
    """The plug-ins that a recipe or spec names, relative to its file, as absolute paths."""
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, list):
        return paths
    return [str((file.parent / Path(p).expanduser()).absolute()) if isinstance(p, str) else p for p in paths]


def use(paths: Sequence[str]) -> tuple[str, ...]:
    """Absolute paths of a recipe's plug-ins, each content once; loads those that this process does not have."""
    found: dict[str, str] = {}
    for path in paths:
        absolute = str(Path(path).expanduser().absolute())
        plugin = _by_path.get(absolute) or load(path)
        found.setdefault(plugin.sha256, absolute)
    names = [Path(path).name for path in found.values()]
    for name in names:
        if names.count(name) > 1:
            raise UserError("--plugin", "two files of this name; rename one", name)
    return tuple(found.values())


def loaded(path: str) -> Plugin:
    """The plug-in of a path that `use` gave."""
    return _by_path[path]


def digests(paths: Sequence[str]) -> tuple[str, ...]:
    """SHA-256 of each plug-in of a recipe: what identifies it, wherever it lies."""
    return tuple(loaded(path).sha256 for path in paths)


def forget() -> None:
    """Take every plug-in out again, as in a new process: for tests."""
    for plugin in _by_content.values():
        _remove(plugin.names)
        sys.modules.pop(_module_name(plugin.sha256), None)
    _by_content.clear()
    _by_path.clear()


def copy_name(path: str) -> str:
    """Where a run directory keeps the copy, as its recipe.json names it."""
    return f"{FOLDER}/{Path(path).name}"


def recorded(paths: Sequence[str]) -> list[dict[str, str]]:
    """`plugins` of a record."""
    return [{"path": path, "sha256": loaded(path).sha256} for path in paths]


def of_run(
    directory: Path, tree: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The recipe of a run's files with its plug-ins as paths that are loaded.

    Args:
        directory: the run, which holds the copies.
        tree: content of its recipe.json.
        record: what has `plugins`, where there is something.

    Raises:
        UserError: the copy is not the file that the run was made with, or this process was not given it.
    """
    paths = []
    entries = (record or {}).get("plugins") or [{}] * len(tree.get("plugin") or ())
    for name, entry in zip(tree.get("plugin") or (), entries, strict=False):
        copy = directory / name
        found = hashlib.sha256(copy.read_bytes()).hexdigest() if copy.is_file() else None
        expected = entry.get("sha256") or found
        if found not in (None, expected):
            raise UserError(
                "RUN",
                f"its {name} is not the plug-in that it was made with (SHA-256 {str(found)[:12]}..., recorded "
                f"{str(expected)[:12]}...)",
                str(directory),
            )
        others = [p for p in _by_content.values() if Path(p.path).name == Path(name).name]
        if expected is None:  # killed before it had its copy
            if not others:
                raise UserError("RUN", f"its plug-in {name} is missing", str(directory))
            expected = others[-1].sha256
        if not _has_run(expected):
            other = f", not of {others[0].path} ({others[0].sha256[:12]}...)" if others else ""
            raise UserError(
                "--plugin",
                f"{directory} was made with {name} (SHA-256 {expected[:12]}...){other}, code that is run only where "
                f"it is named: if you trust it, --plugin {copy}",
            )
        plugin = _by_content[expected]
        if found is not None:
            _by_path.setdefault(str(copy.absolute()), plugin)
        paths.append(str(copy.absolute()) if found is not None else plugin.path)
    return dict(tree) | {"plugin": paths} if paths else dict(tree)


def described(entry: Any) -> str | None:
    """ "mine.py, line 12" of a plug-in's term, network or instance of one; None for what no plug-in defines."""
    kind = entry if isinstance(entry, type) else type(entry)
    for function in (
        entry,
        kind.__call__,
        *(vars(kind).get(name) for name in ("features", "forward", "__init__")),
    ):
        code = getattr(function, "__code__", None)
        if code is not None and code.co_filename in _by_path:
            return f"{code.co_filename}, line {code.co_firstlineno}"
    return None


@contextmanager
def plugin_errors() -> Iterator[None]:
    """What a plug-in's code raises while a run uses it, as one line with its file and line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        where = _blamed(error)
        if where is None:
            raise
        raise TrainingFailure(where) from error


def _blamed(error: BaseException | None) -> str | None:
    """ "mine.py, line 12: ValueError: ..." where a plug-in's code led to an error or to what it was raised from."""
    while error is not None:
        line = _line(error.__traceback__, tuple(_by_path))
        if line is None:  # a compiler raises its own error, and quotes where the code was
            quoted = re.findall(r'File "([^"]+)", line (\d+)', str(error))
            line = next(
                (f"{file}, line {number}" for file, number in reversed(quoted) if file in _by_path), None
            )
        if line is not None:
            return f"{line}: {_said(error)}"
        error = error.__cause__
    return None


def _line(trace: types.TracebackType | None, files: Sequence[str]) -> str | None:
    frames = [frame for frame in traceback.extract_tb(trace) if frame.filename in files]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else None


def _said(error: BaseException) -> str:
    text = error.line() if isinstance(error, UserError) else str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__


def _module_name(sha256: str) -> str:
    return f"srat_fast_plugin_{sha256[:12]}"


def _names() -> set[tuple[str, str]]:
    return {(kind, name) for kind, entries in (_REGISTRIES | _CLOSED).items() for name in entries}


def _remove(names: Sequence[tuple[str, str]]) -> None:
    for kind, name in names:
        (_REGISTRIES | _CLOSED)[kind].remove(name)


_ALONE = (
    "only the file itself is kept and run, nothing beside it; put that into it, or install it as a package"
)


def _is_beside(folder: Path, name: str) -> bool:
    top = name.partition(".")[0]
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


def _imported_beside(folder: Path, names: set[str]) -> str | None:
    """A module that was found beside a plug-in, as in the folder where `python -m` was called, and is not installed."""
    tops = {name.partition(".")[0] for name in names if not name.startswith("srat_fast")}
    for top in sorted(tops):
        file = getattr(sys.modules.get(top), "__file__", None)
        if file and Path(file).parent in (folder, folder / top) and top not in packages_distributions():
            return file
    return None


def _run(path: str, content: bytes, sha256: str) -> tuple[tuple[str, str], ...]:
    """Run the file as a module of its own; what it registered."""
    before, imported = _names(), set(sys.modules)
    module = types.ModuleType(_module_name(sha256))
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pickle look a class's module up
    try:
        exec(compile(content, path, "exec"), module.__dict__)
        if beside := _imported_beside(Path(path).parent, set(sys.modules) - imported):
            raise UserError("--plugin", f"imports {beside}: {_ALONE}", path)
        names = tuple(sorted(_names() - before))
        if any(kind in _CLOSED for kind, _ in names):
            raise UserError(
                "--plugin",
                "a data set is no plug-in: write it as folders or an .npz file, or give train(data=...) arrays",
                path,
            )
        if not names:
            raise UserError(
                "--plugin", f"registers nothing; srat_fast.registry has {', '.join(_REGISTRIES)}", path
            )
        return names
    except BaseException as error:
        _remove(sorted(_names() - before))
        sys.modules.pop(module.__name__, None)
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, UserError) and error.value == path):
            raise
        line = f"line {error.lineno}" if isinstance(error, SyntaxError) and error.filename == path else None
        line = line or (_line(error.__traceback__, (path,)) or "").rpartition(", ")[2] or "cannot be compiled"
        said = error.line() if isinstance(error, UserError) else _said(error)
        if isinstance(error, ModuleNotFoundError) and _is_beside(Path(path).parent, str(error.name)):
            said += f": {_ALONE}"
        raise UserError("--plugin", f"{line}: {said}", path) from None
