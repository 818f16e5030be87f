"""`srat-fast doctor`: what is installed, which device and backends there are, what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from srat_fast.tables import Table

if TYPE_CHECKING:
    from srat_fast.console import Console

#: package -> (what needs it, the command that installs it).
_PACKAGES = {
    "torch": ("everything", "pip install torch"),
    "numpy": ("everything", "pip install numpy"),
    "pillow": ("images in files", "pip install pillow"),
    "scipy": ("svhn, analyse, theory, sweep table", "pip install scipy"),
    "matplotlib": ("figures", "pip install matplotlib"),
    "scikit-learn": ("digits, analyse", "pip install scikit-learn"),
    "safetensors": ("saved models", "pip install safetensors"),
    "tensorboard": ("live curves", "pip install tensorboard"),
    "ffcv": ("--loader ffcv", "bash .ci/ffcv (docs/howto/loaders.md, Installing ffcv)"),
    "pyautoattack": ("autoattack and its parts, audit", "pip install 'srat-fast[audit]'"),
    "torchvision": ("data.policy", "pip install torchvision torch==<yours>"),
    "timm": ("networks timm:<name>", "pip install 'srat-fast[timm]'"),
    "ray": ("sweep --engine ray", "pip install 'srat-fast[ray]'"),
    "optuna": ("searches in sweeps", "pip install 'srat-fast[search]'"),
    "pyarrow": ("tables as Parquet", "pip install 'srat-fast[parquet]'"),
    "triton": ("fused kernels on a GPU", "comes with torch's CUDA build"),
    "onnx": ("export --format onnx", "pip install 'srat-fast[onnx]'"),
    "onnxscript": ("export --format onnx", "pip install 'srat-fast[onnx]'"),
    "onnxruntime": ("export --format onnx", "pip install 'srat-fast[onnx]'"),
}
_OPTIONAL = (
    "triton",
    "ffcv",
    "pyautoattack",
    "torchvision",
    "timm",
    "ray",
    "optuna",
    "pyarrow",
    "onnx",
    "onnxscript",
    "onnxruntime",
)


def doctor() -> None:
    """What is installed, what is missing, which device runs."""
    from srat_fast.console import Console
    from srat_fast.record import versions

    console = Console()
    table = Table("package", "version", "for")
    missing = []
    for package, (purpose, install) in _PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = f"missing: {install}"
            if package not in _OPTIONAL:
                missing.append(package)
        table.add(package, version, purpose)
    console.say(
        f"srat-fast {versions().get('srat-fast', '(run from source)')}, Python {versions()['python']}"
    )
    console.print(table)
    if importlib.util.find_spec("torch") is not None:
        _hardware(console)
    _data(console)
    for package in missing:
        console.say(f"missing: {package}; {_PACKAGES[package][1]}", style="bold red")
    if not missing:
        console.say("ready: srat-fast train --dataset digits", style="bold green")


def _data(console: Console) -> None:
    """Which published sets are on this machine already."""
    from srat_fast.data.paths import cache_directory
    from srat_fast.data.sources import state_of

    console.say(f"prepared data: {cache_directory()} (SRAT_FAST_CACHE)")
    for name in ("cifar10", "cifar100", "svhn"):
        console.say(f"{name}: {state_of(name, Path('data'))}")


def _hardware(console: Console) -> None:
    import torch

    from srat_fast.hardware import device_name, explain_auto, instruction_set, resolve_device
    from srat_kernels import available_backends

    device = resolve_device("auto")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    console.say(f"torch build: {build}")
    console.say(f"device: {device} ({device_name(device)})")
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
    limited = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    console.say(f"CPU instruction set: {instruction_set()}" + (f" (limited by {limited})" if limited else ""))
    for line in explain_auto(device):
        console.say(line)
    console.say(f"kernel backends: {', '.join(available_backends(device))}")
    if device.type == "cpu":
        console.say("no CUDA device: training runs on the CPU; use --recipe smoke or small sets")
