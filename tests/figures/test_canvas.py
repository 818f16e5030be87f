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
import sys
from srat_fast.figures.canvas import figure, render
drawn, ((axes,),) = figure()
axes.bar([0, 1], [3, 2])
sys.stdout.buffer.write(render(drawn, sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules  # it would look for a window system
"""


def drawing():
    drawn, ((axes,),) = figure(width=4, height=3)
    with style():
        axes.bar(["cat", "a$b$c"], [3, 2])
        axes.set_title("two classes")
    return drawn


@pytest.mark.parametrize(("suffix", "starts"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_pictures_of_each_kind_are_the_same_from_process_to_process(suffix, starts) -> None:
    one, two = (
        subprocess.run([sys.executable, "-c", BARS, suffix], capture_output=True, check=True).stdout
        for _ in range(2)
    )
    assert one.startswith(starts)
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
