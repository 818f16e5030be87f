"""Claims: one winner however many try, dead holders are followed, living ones never."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srat_fast.sweep.claims import Claims, alive, process_identity

RACER = """
import sys, time
from pathlib import Path
from srat_fast.sweep.claims import Claims
claims = Claims(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
won = [trial for trial in range(200) if claims.take(f"{trial:012x}")]
print(*won, flush=True)
sys.stdin.readline()  # claims of a process that has ended may be taken over
"""


def test_of_many_processes_one_wins(tmp_path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    won = [trial for racer in racers for trial in racer.stdout.readline().split()]
    for racer in racers:
        racer.communicate("\n")
    assert sorted(won, key=int) == [str(k) for k in range(200)]


def test_a_dead_holder_is_followed_once(tmp_path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from srat_fast.sweep.claims import Claims; "
        "assert Claims(Path(sys.argv[1])).take('a'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("a")
    assert not second.take("a")
    assert (tmp_path / "a.1").exists()
    first.release("a")
    assert second.take("a")
    assert not first.take("a")
    first.close()
    second.close()


def foreign(path: Path, age: float) -> None:
    """A claim of a driver on another host, last touched some time ago."""
    path.write_text(json.dumps({"driver": {"host": "elsewhere:0:0", "pid": 1, "ticks": 1}}))
    os.utime(path, (time.time() - age,) * 2)


def test_another_hosts_claim_lapses_with_its_lease(tmp_path) -> None:
    foreign(tmp_path / "a.0", 1.0)
    claims = Claims(tmp_path, lease=30.0)
    assert not claims.take("a")
    foreign(tmp_path / "a.0", 31.0)
    assert claims.take("a")
    assert (tmp_path / "a.1").exists()
    claims.close()


def test_the_one_who_slept_notices(tmp_path) -> None:
    sleeper = Claims(tmp_path)
    assert sleeper.take("a")
    assert not sleeper.lost("a")
    foreign(tmp_path / "a.1", 0.0)  # another driver took it over meanwhile
    assert sleeper.lost("a")
    sleeper.close()
    assert not Claims(tmp_path).take("a")


def test_claims_are_kept_alive(tmp_path) -> None:
    claims = Claims(tmp_path, lease=0.6)
    claims.take("a")
    os.utime(tmp_path / "a.0", (0, 0))
    time.sleep(0.5)
    assert time.time() - (tmp_path / "a.0").stat().st_mtime < 5
    claims.close()


def test_a_claim_that_is_just_being_made_counts(tmp_path) -> None:
    (tmp_path / "a.0").touch()
    assert not Claims(tmp_path).take("a")


@pytest.mark.parametrize(
    "content", ["\0\0\0", '{"dri', "null", "[1]", '{"driver": null}', '{"driver": {"host": 3}}']
)
def test_a_damaged_claim_lapses_with_its_lease(tmp_path, content) -> None:
    """As a power cut leaves it."""
    (tmp_path / "a.0").write_text(content)
    assert not Claims(tmp_path).take("a")
    os.utime(tmp_path / "a.0", (time.time() - 61,) * 2)
    claims = Claims(tmp_path)
    assert claims.take("a")
    claims.close()


def test_a_holder_is_known_where_nothing_may_be_written(tmp_path, monkeypatch) -> None:
    """`sweep status` of somebody else's sweep."""
    foreign(tmp_path / "a.0", 1.0)
    foreign(tmp_path / "b.0", 61.0)

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refused)
    assert Claims(tmp_path).holder("a") is not None
    assert Claims(tmp_path).holder("b") is None


def test_a_claim_on_a_full_disk_names_it(tmp_path, monkeypatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")  # as a write says it: without a name

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as error:
        Claims(tmp_path).take("a")
    assert error.value.filename == str(tmp_path / "a.0")
    assert not list(tmp_path.iterdir())


def test_a_process_is_not_its_successor() -> None:
    mine = process_identity(os.getpid())
    assert alive(mine) is True
    assert alive(mine | {"ticks": mine["ticks"] - 1}) is False
    assert alive(mine | {"host": "elsewhere:0:0"}) is None
    child = subprocess.Popen([sys.executable, "-c", ""])
    identity = process_identity(child.pid)
    child.wait()
    assert alive(identity) is False
