"""`srat-fast doctor`: nothing enters; what is installed, which device and backends there are, what is missing leave."""

from __future__ import annotations

import importlib.metadata
import importlib.util

#: package -> (what needs it, the command that installs it).
_PACKAGES = {
    "torch": ("everything", "pip install torch"),
    "torchvision": ("cifar10, cifar100, svhn", "pip install torchvision"),
    "numpy": ("everything", "pip install numpy"),
    "pillow": ("folder data sets", "pip install pillow"),
    "scikit-learn": ("digits", "pip install scikit-learn"),
    "safetensors": ("saved models", "pip install safetensors"),
    "tensorboard": ("live curves", "pip install tensorboard"),
    "triton": ("fused kernels on a GPU", "comes with torch's CUDA build"),
}
_OPTIONAL = ("triton",)


def doctor() -> None:
    """What is installed, which device runs, which backends, what is missing and how to install it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from srat_fast.record import versions

    console = Console()
    table = Table("package", "version", "for", box=box.MARKDOWN)
    missing = []
    for package, (purpose, install) in _PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = f"missing: {install}"
            if package not in _OPTIONAL:
                missing.append(package)
        table.add_row(package, version, purpose)
    console.print(
        f"srat-fast {versions().get('srat-fast', '(run from source)')}, Python {versions()['python']}"
    )
    console.print(table)
    if importlib.util.find_spec("torch") is not None:
        _hardware(console)
    for package in missing:
        console.print(f"missing: {package}; {_PACKAGES[package][1]}", style="bold red")
    if not missing:
        console.print("ready: srat-fast train --dataset digits", style="bold green")


def _hardware(console: object) -> None:
    import torch
    from rich.console import Console

    from srat_fast.hardware import device_name, resolve_device, resolve_precision
    from srat_fast.recipe import Recipe
    from srat_kernels import available_backends

    assert isinstance(console, Console)
    device = resolve_device("auto")
    precision = resolve_precision(Recipe(), device)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    console.print(f"torch build: {build}", highlight=False)
    console.print(f"device: {device} ({device_name(device)}), precision auto = {precision}", highlight=False)
    console.print(f"kernel backends: {', '.join(available_backends(device))}", highlight=False)
    if device.type == "cpu":
        console.print(
            "no CUDA device: training runs on the CPU; use --recipe smoke or small sets", highlight=False
        )
