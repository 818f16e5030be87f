"""The Ray engine on a real cluster: two nodes on this machine, one of which is killed while trials run on it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srat_fast.sweep.directory import SweepDirectory
from tests.tiny import TINY

pytest.importorskip("ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def session_processes(session: int) -> list[int]:
    """Every living process of a session: what `ray start --block` has started, its trials not among them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


class Cluster:
    """Nodes that are `ray start --block` processes of a session each, so that they can be found and ended."""

    def __init__(self, path: Path) -> None:
        self.path, self.port = path, free_port()
        self.nodes: list[subprocess.Popen] = []

    def start_node(self) -> subprocess.Popen:
        head = not self.nodes
        where = ["--head", f"--port={self.port}"] if head else [f"--address=127.0.0.1:{self.port}"]
        root = Path(__file__).resolve().parents[2]
        environment = dict(os.environ) | {
            "PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "RAY_DISABLE_METRICS_COLLECTION": "1",
            "RAY_health_check_failure_threshold": "3",
            "RAY_health_check_period_ms": "1000",
        }
        environment.pop("TRITON_INTERPRET", None)
        options = ["--num-cpus=1", "--disable-usage-stats", "--block", "--object-store-memory=80000000"]
        extra = ["--include-dashboard=false", f"--temp-dir={self.path}"] if head else []
        with (self.path / f"node{len(self.nodes)}.txt").open("w") as log:
            node = subprocess.Popen(
                [Path(sys.executable).with_name("ray"), "start", *where, *options, *extra],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.nodes.append(node)
        return node

    def kill(self, node: subprocess.Popen) -> None:
        for pid in session_processes(node.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait(10)

    def close(self) -> None:
        for node in reversed(self.nodes):
            self.kill(node)
        wait_for(lambda: not any(session_processes(node.pid) for node in self.nodes), 20)


@pytest.fixture(scope="module")
def cluster():
    import tempfile

    with tempfile.TemporaryDirectory(
        prefix="ray", dir="/tmp", ignore_cleanup_errors=True
    ) as path:  # sockets' paths are short
        cluster = Cluster(Path(path))
        try:
            cluster.start_node()
            wait_for(lambda: "Ray runtime started" in (cluster.path / "node0.txt").read_text())
            cluster.start_node()
            wait_for(lambda: "Ray runtime started" in (cluster.path / "node1.txt").read_text())
            yield cluster
        finally:
            cluster.close()


def wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def running_on(sweep: SweepDirectory) -> dict[str, str]:
    """Trial -> node, of trials that have finished an epoch."""
    found = {}
    for trial in sweep.plan.trials:
        state = sweep.state(trial)
        if state["status"] == "running" and (sweep.run(trial) / "metrics.jsonl").exists():
            found[trial.name] = state["running"]["where"]
    return found


@pytest.mark.slow
def test_run_directories_are_brought_back(stage, cluster) -> None:
    stage.spec(seeds=[0], axes={"method": ["natural"]})
    options = ("--engine", "ray", "--address", f"127.0.0.1:{cluster.port}", "--collect", "--min-free", "0")
    code, text = stage.call("sweep", "spec.toml", "--out", str(stage.out), *options, real=True, timeout=150)
    assert code == 0, text
    sweep = SweepDirectory.open(stage.out)
    (trial,) = sweep.plan.trials
    assert json.loads((sweep.run(trial) / "record.json").read_text())["status"] == "finished"
    assert (sweep.run(trial) / "model.safetensors").exists()
    assert sweep.state(trial)["status"] == "done"


@pytest.mark.slow
def test_a_node_that_dies_loses_little(stage, cluster) -> None:
    epochs = 150
    base = TINY | {"optim.epochs": epochs}
    stage.spec(seeds=[0], axes={"method": ["ce", "ldam", "focal"]}, base=base)
    options = ("--engine", "ray", "--address", f"127.0.0.1:{cluster.port}", "--min-free", "0")
    driver = stage.start("sweep", "spec.toml", "--out", str(stage.out), *options, real=True)
    try:
        wait_for(lambda: (stage.out / "plan.json").exists())
        wait_for(
            lambda: (
                len(set(running_on(SweepDirectory.open(stage.out)).values())) == 2
                or driver.poll() is not None
            )
        )
        assert driver.poll() is None, driver.communicate()[0]
        before = running_on(SweepDirectory.open(stage.out))
        cluster.kill(cluster.nodes[1])
        text, _ = driver.communicate(timeout=150)
    finally:
        driver.kill()
    assert driver.returncode == 0, text
    assert "its node or worker died" in text
    sweep = SweepDirectory.open(stage.out)
    kinds = {t.name: [a["kind"] for a in sweep.state(t)["attempts"]] for t in sweep.plan.trials}
    assert sorted(kinds.values()) == [["finished"], ["finished"], ["killed", "finished"]]
    (victim,) = [t for t in sweep.plan.trials if len(kinds[t.name]) == 2]
    assert victim.name in before
    record = json.loads((sweep.run(victim) / "record.json").read_text())
    assert record["resumed"], "it went on from its checkpoint"
    lines = [json.loads(line) for line in (sweep.run(victim) / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(epochs))


def test_no_cluster_is_one_line(stage) -> None:
    code, text = stage.call(
        "sweep", "spec.toml", "--engine", "ray", "--address", f"127.0.0.1:{free_port()}", timeout=100
    )
    assert code == 2, text
    assert text.startswith("error: --address = ")
    assert text.count("\n") == 1


def test_a_run_is_brought_back_while_its_checkpoint_is_replaced(tmp_path, monkeypatch) -> None:
    from srat_fast.sweep import cluster

    run, real = tmp_path / "run", os.scandir
    (run / "checkpoint").mkdir(parents=True)
    (run / "checkpoint" / "state").touch()
    (run / "metrics.jsonl").write_text("{}")

    def scandir(path: str | Path):
        if Path(path).name == "checkpoint":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    brought: list[tuple] = []
    cluster._Uploader(lambda name, content: brought.append((name, content)), run).bring(now=True)
    ((name, content),) = brought
    cluster.unpack(content, tmp_path / "there")
    assert name == "run"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["metrics.jsonl"]


def test_a_trial_of_several_gpus_is_one_nodes(monkeypatch) -> None:
    from srat_fast.errors import UserError
    from srat_fast.sweep import cluster

    nodes = [{"Alive": True, "Resources": {"GPU": gpus, "CPU": 8.0}} for gpus in (3.0, 4.0)]
    nodes.append({"Alive": False, "Resources": {"GPU": 8.0}})
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"GPU": 7.0, "CPU": 16.0})
    assert [len(cluster.cluster_slots("auto", {"auto"}, None, None, each)) for each in (1, 2, 4)] == [7, 3, 1]
    assert len(cluster.cluster_slots("auto", {"cpu"}, None, None, 3)) == 4
    with pytest.raises(UserError, match=r"--slots-per-gpu = 2: 1 with gpus_per_trial > 1"):
        cluster.cluster_slots("auto", {"auto"}, 2, None, 3)
    with pytest.raises(UserError, match=r"gpus_per_trial = 5: no node .* so many GPUs; the largest has 4"):
        cluster.cluster_slots("auto", {"cuda"}, None, None, 5)
