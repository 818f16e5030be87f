"""Weights from elsewhere: pure tensors load, everything else is refused in one line and nothing is executed."""

from __future__ import annotations

import os
import pickle

import pytest
import safetensors.torch
import torch

from srat_fast.errors import UserError
from srat_fast.models.foreign import load_foreign

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.steps": torch.tensor(3)}


class Bomb:
    """Pickles to a call of os.mkdir: loading it unguarded leaves a directory."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "net", "model_state_dict"])
def test_pure_tensors_load(suffix, key, tmp_path) -> None:
    torch.save(TENSORS if key is None else {"epoch": 3, key: TENSORS}, tmp_path / f"w{suffix}")
    loaded = load_foreign(tmp_path / f"w{suffix}")
    assert list(loaded) == list(TENSORS)
    torch.testing.assert_close({name: loaded[name] for name in TENSORS}, TENSORS, rtol=0, atol=0)


def test_safetensors_and_parameters_load(tmp_path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "w.safetensors")
    torch.testing.assert_close(
        load_foreign(tmp_path / "w.safetensors")["a.weight"], TENSORS["a.weight"], rtol=0, atol=0
    )
    torch.save(dict(torch.nn.Linear(2, 2).named_parameters()), tmp_path / "p.pt")
    assert not load_foreign(tmp_path / "p.pt")["weight"].requires_grad


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"state_dict": TENSORS, "hook": b}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_is_refused_and_not_executed(wrap, zipped, tmp_path) -> None:
    target = tmp_path / "executed"
    torch.save(wrap(Bomb(str(target))), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"refused, nothing was executed: it calls posix\.mkdir"):
        load_foreign(tmp_path / "w.pt")
    assert not target.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert target.exists(), "the bomb is live: the unguarded way runs it"


def test_a_plain_pickle_bomb_is_refused(tmp_path) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Bomb(str(tmp_path / "executed"))))
    with pytest.raises(UserError, match="weights = "):
        load_foreign(tmp_path / "w.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([TENSORS["a.weight"]], "no dictionary of tensors"),
        ({}, "no dictionary of tensors"),
        ({"a": 3}, "'a' is no tensor but int"),
        ({3: TENSORS["a.weight"]}, "3 is no tensor"),
        ({"state_dict": {"a": [1.0]}}, "'a' is no tensor but list"),
        ({"a": torch.eye(3).to_sparse()}, "'a' is not a dense tensor"),
        (torch.nn.Linear(2, 2), "refused, nothing was executed: it calls torch.nn.modules.linear.Linear"),
    ],
)
def test_anything_but_pure_tensors_is_refused(content, says, tmp_path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError) as error:
        load_foreign(tmp_path / "w.pt")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_torchscript_archive_is_refused(tmp_path) -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "w.pt"))
    with pytest.raises(UserError, match="cannot be read"):
        load_foreign(tmp_path / "w.pt")


def test_missing_damaged_and_unknown_files(tmp_path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        load_foreign(tmp_path / "none.pt")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a \.safetensors, \.pt or \.pth file is needed"):
        load_foreign(tmp_path / "w.h5")
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(UserError, match=r"cannot be read|refused"):
            load_foreign(tmp_path / name)
    torch.save(TENSORS, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot be read"):
        load_foreign(tmp_path / "cut.pt")
