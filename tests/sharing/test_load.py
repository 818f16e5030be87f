"""srat_fast.load: every kind of path gives the run's logits; whatever else is there is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict

import pytest
import torch

import srat_fast
from srat_fast.errors import UserError
from srat_fast.models.classifier import Classifier
from srat_fast.models.files import load_model
from srat_fast.record import WEIGHTS

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("weights", "file"), [("last", "model"), ("best", "best"), ("ema", "ema")], ids=lambda x: x
)
def test_a_run_by_its_weights(digits_run, weights, file) -> None:
    model = srat_fast.load(digits_run, weights=weights)
    expected = load_model(digits_run / f"{file}.safetensors")
    torch.testing.assert_close(model(IMAGES), expected(IMAGES), rtol=0, atol=0)
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.features(IMAGES).shape == (3, 32)


def flipped(run, weights: str) -> None:
    """One bit of one weight."""
    file = run / WEIGHTS[weights]
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def swapped(run, weights: str) -> None:
    """The weights of another run, or of another epoch of this one."""
    shutil.copy(run / WEIGHTS["ema" if weights == "last" else "last"], run / WEIGHTS[weights])


@pytest.mark.parametrize("damage", [flipped, swapped], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_record_vouches_for_its_weights(digits_run, weights, damage, tmp_path) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    damage(run, weights)
    before = (run / "record.json").read_bytes()
    for judged in (
        lambda: srat_fast.evaluate(run, "clean", weights=weights),
        lambda: srat_fast.audit_run(run, weights=weights),
        lambda: srat_fast.analyse(run, weights=weights),
        lambda: srat_fast.export(run, weights=weights),
        lambda: srat_fast.load(run, weights=weights),
    ):
        with pytest.raises(
            UserError, match=f"its {WEIGHTS[weights]} is not the one that its record"
        ) as caught:
            judged()
        assert "\n" not in str(caught.value)
    assert not (run / "export").exists()
    assert (run / "record.json").read_bytes() == before
    if weights == "last":
        with pytest.raises(UserError, match=r"its model\.safetensors is not the one"):
            srat_fast.audit_run(digits_run, surrogate=run)


def test_a_record_of_an_earlier_version_says_nothing_of_its_weights(digits_run, tmp_path) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    record = json.loads((run / "record.json").read_text())
    assert set(record.pop("weights_checksums")) == {"last", "best", "ema"}
    (run / "record.json").write_text(json.dumps(record))
    flipped(run, "last")
    assert srat_fast.load(run).linear.out_features == 10
    assert srat_fast.evaluate(run, "clean", changes={"data.test_limit": 20})


def test_a_file(digits_run) -> None:
    model = srat_fast.load(str(digits_run / "ema.safetensors"), device="auto")
    device = next(model.parameters()).device
    assert torch.allclose(
        model(IMAGES.to(device)).cpu(), srat_fast.load(digits_run, weights="ema")(IMAGES), atol=1e-5
    )


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("under", [None, "state_dict", "model"])
def test_a_foreign_state_dict(prefix, under, tmp_path) -> None:
    torch.manual_seed(0)
    model = Classifier(
        "resnet18", 5, channels=1, width=4, mean=torch.tensor([0.3]), std=torch.tensor([0.2])
    ).eval()
    names = {"mean": "mu", "std": "sigma"}
    state = OrderedDict((prefix + names.get(n, n), t) for n, t in model.state_dict().items())
    torch.save(state if under is None else {under: state}, tmp_path / "theirs.pt")
    torch.testing.assert_close(srat_fast.load(tmp_path / "theirs.pt")(IMAGES), model(IMAGES), rtol=0, atol=0)


class Danger:
    """A pickle that would leave a file if it were opened carelessly."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_file_is_not_run(tmp_path) -> None:
    torch.save({"linear.weight": Danger(tmp_path / "executed")}, tmp_path / "theirs.pt")
    with pytest.raises(UserError):
        srat_fast.load(tmp_path / "theirs.pt")
    assert not (tmp_path / "executed").exists()


def test_what_is_refused(digits_run, tmp_path) -> None:
    def says(text: str, path, **options) -> None:
        with pytest.raises(UserError, match=text) as caught:
            srat_fast.load(path, **options)
        assert "\n" not in str(caught.value)

    says("no such run directory or file", tmp_path / "nowhere")
    says("neither a run", tmp_path)
    says("weights = 'first': one of last, best, ema", digits_run, weights="first")
    says("a file holds one set", digits_run / "model.safetensors", weights="ema")
    for name, why in (("best", "val_fraction"), ("ema", "ema_decay")):
        poor = tmp_path / name
        shutil.copytree(digits_run, poor)
        (poor / f"{name}.safetensors").unlink()
        says(why, poor, weights=name)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    says("not those of resnet18", tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    says(r"list\.pt", tmp_path / "list.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04")
    says(r"torn\.pt", tmp_path / "torn.pt")
    (tmp_path / "a.onnx").write_bytes(b"")
    says("onnxruntime", tmp_path / "a.onnx")
    (tmp_path / "a.pt2").write_bytes(b"not an archive")
    says("trusted=True", tmp_path / "a.pt2")
    says("cannot be read", tmp_path / "a.pt2", trusted=True)
    (tmp_path / "a.txt").write_text("")
    says(r"a\.txt", tmp_path / "a.txt")
