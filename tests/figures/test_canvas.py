"""The canvas: pictures of each kind, equal bytes for equal drawings, errors that name the file."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib
import pytest
from PIL import Image

from srat_fast.errors import UserError
from srat_fast.figures.canvas import SUFFIXES, figure, render, save, style

BARS = """
import hashlib, sys
from srat_fast.figures.canvas import SUFFIXES, figure, render
for suffix in SUFFIXES:
    drawn, ((axes,),) = figure()
    axes.bar([0, 1], [3, 2])
    content = render(drawn, suffix)
    print(suffix, content[:4], hashlib.sha256(content).hexdigest())
assert "matplotlib.pyplot" not in sys.modules  # it would look for a window system
"""


def drawing():
    drawn, ((axes,),) = figure(width=4, height=3)
    with style():
        axes.bar(["cat", "a$b$c"], [3, 2])
        axes.set_title("two classes")
    return drawn


def test_pictures_of_each_kind_are_the_same_from_process_to_process() -> None:
    one, two = (
        subprocess.run([sys.executable, "-c", BARS], capture_output=True, check=True, text=True).stdout
        for _ in range(2)
    )
    assert [line.split()[:2] for line in one.splitlines()] == [
        [".svg", "b'<?xm'"],
        [".png", r"b'\x89PNG'"],
        [".pdf", "b'%PDF'"],
    ]
    assert one == two


def test_size_and_text(tmp_path) -> None:
    path = save(drawing(), tmp_path / "new" / "bars.PNG")
    with Image.open(path) as picture:
        assert picture.size == (600, 450)
    text = render(drawing(), ".svg").decode()
    assert "two classes" in text  # text stays text
    assert "a$b$c" in text  # a dollar is no formula
    assert sorted(p.name for p in path.parent.iterdir()) == ["bars.PNG"]


def test_the_users_own_style_is_left_alone() -> None:
    before = dict(matplotlib.rcParams)
    render(drawing(), ".png")
    assert dict(matplotlib.rcParams) == before


def test_what_cannot_be_written_is_named(tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"--figure = '.*bars\.jpg': a file name that ends in \.svg, \.png, \.pdf"
    ):
        save(drawing(), tmp_path / "bars.jpg")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"--out = '.*': cannot be written"):
        save(drawing(), tmp_path / "file" / "bars.png", "--out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
    assert io.BytesIO(render(drawing(), next(iter(SUFFIXES)))).getbuffer().nbytes > 1000
