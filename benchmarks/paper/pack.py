"""What is kept of the stages: a folder of sweeps enters, one small archive without weights leaves, and back."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.paper.judging import finished_runs, unfinished_runs
from benchmarks.paper.stages import TRAINING

#: Of each finished run.
KEPT = ("recipe.json", "record.json", "metrics.jsonl", "analysis.json")
#: Of each run under way: how fast it is, and that it learns; not collected.
UNDER_WAY, UNFINISHED = ("recipe.json", "metrics.jsonl"), "unfinished"
MANIFEST = "manifest.json"
#: Names that an archive may hold below its stages, by their ending.
_ENDINGS = (".json", ".jsonl", ".png", ".md", ".csv", ".txt")
#: Characters of a log that are kept.
_LOG = 20_000
LARGEST = 15 * 2**20


def pack(work: Path, path: Path, manifest: dict[str, Any]) -> int:
    """Write the archive.

    Args:
        work: holds a sweep a stage, figures/ and logs/.
        path: of the archive, .tar.gz; written whole or not at all.
        manifest: what the reader must know of how it was measured.

    Returns:
        Bytes.

    Raises:
        ValueError: it would be larger than `LARGEST`.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in [*_contents(work), (MANIFEST, _json(manifest))]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    if len(content) > LARGEST:
        raise ValueError(f"{len(content) / 2**20:.1f} MiB are too many: at most {LARGEST / 2**20:g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(content)
    partial.replace(path)
    return len(content)


def _contents(work: Path) -> Iterator[tuple[str, bytes]]:
    for stage in TRAINING:
        for run in finished_runs(work / stage / "runs"):
            for name in KEPT:
                if (run / name).exists():
                    yield f"{stage}/{run.name}/{name}", _without_place(run / name)
        for run in unfinished_runs(work / stage / "runs"):
            for name in UNDER_WAY:
                if (run / name).exists():
                    yield f"{UNFINISHED}/{stage}/{run.name}/{name}", _without_place(run / name)
        for table in sorted((work / stage).glob("table.*")):
            yield f"{stage}/{table.name}", table.read_bytes()
    for figure in sorted((work / "figures").glob("*.png")):
        yield f"figures/{figure.name}", figure.read_bytes()
    for log in sorted(
        p for folder in (work, *(work / s for s in TRAINING)) for p in (folder / "logs").glob("*.txt")
    ):
        name = f"logs/{log.parent.parent.name}-{log.name}"
        yield name, log.read_text(encoding="utf-8", errors="replace")[-_LOG:].encode()


def _without_place(path: Path) -> bytes:
    """A file of a run; where on its machine the images were is no part of the result."""
    if path.name not in ("recipe.json", "record.json"):
        return path.read_bytes()
    content = json.loads(path.read_text(encoding="utf-8"))
    recipe = content if path.name == "recipe.json" else content["recipe"]
    recipe["data"]["root"] = Path(recipe["data"]["root"]).name
    return _json(content)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def collect(path: Path, results: Path) -> list[str]:
    """Unpack an archive: finished runs, figures and the manifest; the rest stays in it.

    Args:
        path: as `pack` wrote it.
        results: folder that receives them; runs that are there already are replaced.

    Returns:
        Names of the files written.

    Raises:
        ValueError: no such archive, or one that holds anything else.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = archive.getmembers()
            for member in members:
                _check(member)
            kept = {m.name: archive.extractfile(m) for m in members if _wanted(m.name)}
            contents = {name: file.read() for name, file in kept.items() if file is not None}
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is no archive of this command: {error}") from None
    if MANIFEST not in contents:
        raise ValueError(f"{path} is no archive of this command: it has no {MANIFEST}")
    for name, content in contents.items():
        target = results / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return sorted(contents)


def _check(member: tarfile.TarInfo) -> None:
    parts = PurePosixPath(member.name).parts
    known = parts and (parts[0] in (*TRAINING, "figures", "logs", UNFINISHED) or member.name == MANIFEST)
    if not (member.isfile() and known and ".." not in parts and member.name.endswith(_ENDINGS)):
        raise ValueError(f"an archive of this command has no {member.name!r}")


def _wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name == MANIFEST or parts[0] == "figures" or (parts[0] in TRAINING and parts[-1] in KEPT)
