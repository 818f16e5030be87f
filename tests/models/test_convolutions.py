"""Every convolution that a recipe can reach, value and both gradients, against float64, in processes that may crash.

oneDNN's strided 1x1 weight gradient writes past its workspace for few channels (issue 6035): with one thread the
process dies, with two the gradient is wrong. glibc's checking allocator, where it is there, makes an overrun fatal.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
import torch
from srat_fast.models.resnet import BasicBlock, Bottleneck

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)


def results(layer, images, upstream):
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    out = layer(images)
    return out.detach(), *torch.autograd.grad(out, (images, layer.weight), upstream.to(out.dtype))


for channels in (*range(1, 19), 24, 31, 32, 33, 40):  # parts of a block of 8 or 16, and whole ones
    for stride in (1, 2):
        block = BasicBlock(channels, 2 * channels, stride)
        layers = [("3x3", block.conv1), ("1x1", block.shortcut[0])]
        if stride == 1 and channels % 4 == 0:  # the only one that narrows
            layers.append(("bottleneck", Bottleneck(channels, channels, 1).conv1))
        for name, layer in layers:
            for batch, size in ((16, 8), (5, 28)):
                images = torch.randn(batch, channels, size, size)
                with torch.no_grad():
                    upstream = torch.randn_like(layer(images))
                exact = results(layer.double(), images.double(), upstream)
                layer.float()
                for layout in (torch.contiguous_format, torch.channels_last):
                    # the last words of a crash
                    print(name, stride, channels, batch, layout, file=sys.stderr, flush=True)
                    found = results(
                        layer.to(memory_format=layout),
                        images.to(memory_format=layout),
                        upstream.to(memory_format=layout),
                    )
                    for kind, ours, right in zip(("value", "image gradient", "weight gradient"), found, exact):
                        away = float((ours.double() - right).norm() / right.norm())
                        assert away < 1e-5, f"{kind} is {away:.1e} away"
                layer.to(memory_format=torch.contiguous_format)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_every_convolution_agrees_with_float64_and_none_corrupts_memory(threads: int) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    checker = "libc_malloc_debug.so.0"
    if any((Path(folder) / checker).exists() for folder in ("/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64")):
        environment |= {"LD_PRELOAD": checker, "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads)],
        env=environment | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = "\n".join(done.stderr.splitlines()[-3:])
    assert done.returncode == 0, f"code {done.returncode} at: {last}"
