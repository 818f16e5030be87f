"""srat-fast analyse: the numbers are those of the reported accuracies; the files are there, whole, and read back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import srat_fast
from srat_fast.cli import main
from srat_fast.data.arrays import ImageSet
from srat_fast.data.memory import MemoryLoader
from srat_fast.data.split import load_split
from srat_fast.errors import UserError
from srat_fast.evaluation.accuracy import PgdSettings, predict
from srat_fast.evaluation.analyses import analyse, leak, observe
from srat_fast.evaluation.judge import eval_settings
from srat_fast.figures.analysis import draw_panels, panel, read_analysis
from srat_fast.figures.canvas import render
from srat_fast.recipe import build_recipe
from srat_fast.training.trainer import train
from tests.tiny import tiny_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("analysed") / "run"
    whole = {"data.limit": None, "data.test_limit": None}
    train(tiny_recipe(whole, method="natural", optim__ema_decay=0.5), path)
    analyse(path, points=60, device="cpu")
    return path


def test_features_are_those_of_the_images_that_are_judged(run) -> None:
    model = srat_fast.load(run)
    recipe = build_recipe(str(run / "recipe.json")).resolve()
    images = load_split(recipe).test.select(np.arange(40))
    loader = MemoryLoader(images, batch_size=16, device=torch.device("cpu"))
    clean, predictions, labels = observe(model, loader, None)
    assert not model.training, "the model's mode is put back"
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = model.features(pixels)
    assert np.abs(clean - expected.numpy()).max() < 1e-5
    assert (labels == images.labels).all()
    attack = PgdSettings(3, 0.05, 0.1)
    attacked, under_attack, _ = observe(model, loader, attack, seed=4)
    again, _ = predict(model, loader, attack, seed=4)
    assert (under_attack == again.numpy()).all(), "another attack than the one that is reported"
    with torch.no_grad():
        found = model.classify(torch.from_numpy(attacked)).argmax(dim=1).numpy()
    assert (found == under_attack).all(), "features and predictions are of different images"
    assert np.abs(attacked - clean).max() > 1e-3
    assert (predictions == model(pixels).argmax(dim=1).numpy()).all()


def test_numbers_are_the_record_s(run) -> None:
    record = json.loads((run / "record.json").read_text())
    result, arrays = read_analysis(run)
    for view, kind in (("clean", "standard"), ("attacked", "robust")):
        assert result[view]["accuracy"] | {"intervals": record[kind]["intervals"]} == record[kind]
        matrix = np.array(result[view]["confusion"])
        assert matrix.sum(axis=1).tolist() == [50] * 10
        assert np.trace(matrix) / 500 == pytest.approx(record[kind]["overall"])
        assert -1 <= result[view]["silhouette"] <= 1
        assert result[view]["scatter_ratio"] > 0
        assert len(result[view]["silhouette_per_class"]) == 10
    assert result["same_data"] is True
    assert result["counts"] == record["counts"]
    assert arrays["clean_features"].shape == arrays["attacked_features"].shape == (500, 32)
    assert arrays["clean_features"].dtype == np.float32
    assert (np.bincount(arrays["labels"][arrays["index"]]) == 6).all()
    assert arrays["attacked_embedding"].shape == (60, 2)
    assert (arrays["clean_predictions"] == arrays["labels"]).mean() == record["standard"]["overall"]


def test_the_attack_is_the_run_s_own_to_its_seed(run) -> None:
    recipe = build_recipe(str(run / "recipe.json")).resolve()
    images = load_split(recipe).test
    loader = MemoryLoader(images, batch_size=recipe.run.eval_batch_size, device=torch.device("cpu"))
    _, arrays = read_analysis(run)
    same, other = (
        observe(srat_fast.load(run), loader, eval_settings(recipe), seed=seed)[0]
        for seed in (recipe.seed, recipe.seed + 1)
    )
    assert np.abs(same - arrays["attacked_features"]).max() < 1e-5
    assert np.abs(other - arrays["attacked_features"]).max() > 1e-3


def test_figures_are_there_and_repeat(run) -> None:
    stems = ("tsne", "confusion", "accuracy-against-count")
    names = {path.name for path in (run / "figures").iterdir()}
    assert names == {f"{stem}{suffix}" for stem in stems for suffix in (".svg", ".png")}
    text = (run / "figures/tsne.svg").read_text()
    result, arrays = read_analysis(run)
    for view in ("clean", "attacked"):
        assert f"silhouette {result[view]['silhouette']:.3g}" in text
    assert "5 (under)" in text
    assert "mathdefault" not in (run / "figures/accuracy-against-count.svg").read_text()
    panels = [panel(result, arrays, "clean", name) for name in ("one", "two", "three", "four")]
    drawn = render(draw_panels(panels)).decode()
    assert all(f"{name}\n" in drawn or f">{name}<" in drawn for name in ("one", "two", "three", "four"))
    assert drawn == render(draw_panels(panels)).decode()


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["analyse", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_several_runs_together(run, tmp_path, capsys) -> None:
    for name in ("first", "second"):
        shutil.copytree(run, tmp_path / name)
    paths = [str(tmp_path / name) for name in ("first", "second")]
    options = ("--points", "40", "--subset", "100", "--weights", "ema", "--device", "cpu")
    code, out, err = call(capsys, *paths, *options, "--together", str(tmp_path / "both.svg"))
    assert (code, err) == (0, "")
    assert out.count("| attacked  ") == out.count("| attacked by drawn labels |") == 2
    assert (
        f"in {', '.join(paths)}: analysis-ema.json, features-ema.npz, figures-ema/; {tmp_path}/both.svg\n"
        in out
    )
    text = (tmp_path / "both.svg").read_text()
    assert "first" in text
    assert "second" in text
    code, _, _ = call(capsys, paths[0], *options, "--together", str(tmp_path / "one.svg"))
    assert code == 0
    text = (tmp_path / "one.svg").read_text()
    assert "natural" in text
    assert "first" not in text, "a method is called by its name, where that is enough"
    result = json.loads((tmp_path / "first/analysis-ema.json").read_text())
    assert (result["images"], result["same_data"], result["weights"]) == (100, None, "ema")
    assert (tmp_path / "first/figures-ema/confusion.svg").exists()
    before = json.loads((run / "analysis.json").read_text())
    assert json.loads((tmp_path / "first/analysis.json").read_text()) == before, (
        "the last epoch's is left alone"
    )


def test_without_t_sne_and_as_json(run, tmp_path, capsys) -> None:
    shutil.copytree(run, tmp_path / "r")
    shutil.rmtree(tmp_path / "r/figures")
    code, out, _ = call(capsys, str(tmp_path / "r"), "--points", "0", "--subset", "50", "--json")
    assert code == 0
    (result,) = json.loads(out).values()
    assert result["images"] == 50
    assert set(result["leak"]) < set(result["attacked"])
    assert {path.stem for path in (tmp_path / "r/figures").iterdir()} == {
        "confusion",
        "accuracy-against-count",
    }


def test_the_imbalanced_training_images(run, tmp_path) -> None:
    shutil.copytree(run, tmp_path / "r")
    result = analyse(tmp_path / "r", images="train", points=60, device="cpu")
    record = json.loads((run / "record.json").read_text())
    assert (result["part"], result["images"]) == ("train", sum(record["counts"]))
    stored, arrays = read_analysis(tmp_path / "r", images="train")
    assert stored["part"] == "train"
    assert np.bincount(arrays["labels"]).tolist() == record["counts"]
    drawn = np.bincount(arrays["labels"][arrays["index"]])
    shares = 60 * np.array(record["counts"]) / sum(record["counts"])
    assert np.abs(drawn - shares).max() < 1 or drawn.min() == 1, "an even sample would hide the imbalance"
    assert (tmp_path / "r/figures-train/tsne.svg").exists()
    assert (tmp_path / "r/analysis.json").read_bytes() == (run / "analysis.json").read_bytes()


BAD = [
    (["nowhere"], "RUN = 'nowhere': is not a finished run"),
    (["r", "nowhere"], "RUN = 'nowhere': is not a finished run"),
    (["r", "--points", "3"], "--points = 3: 0 or an integer >= 8"),
    (["r", "--points", "0", "--together", "a.svg"], "--points = 0: t-SNE is left out"),
    (["r", "--together", "a.gif"], "--together = 'a.gif': a file name that ends in .svg, .png, .pdf"),
    (["r", "--weights", "best"], "--weights = 'best': the run has no best.safetensors"),
    (["r", "--subset", "3"], "3"),
    (["r", "--images", "both"], "--images = 'both': one of test, train"),
    (["r", "--images", "train", "--subset", "50"], "--subset = '50': chooses test images"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_code_2(arguments, says, run, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "r")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_analyses_that_are_missing_or_damaged(run, tmp_path) -> None:
    with pytest.raises(UserError, match="has no analysis"):
        read_analysis(tmp_path)
    shutil.copytree(run, tmp_path / "r")
    (tmp_path / "r/features.npz").write_bytes(b"torn")
    with pytest.raises(UserError, match="is damaged"):
        read_analysis(tmp_path / "r")


class Reads(torch.nn.Module):
    """A linear classifier whose features are the pixels, in which an attack writes its label."""

    def __init__(self, images: int) -> None:
        super().__init__()
        weights = torch.randn(3, images, generator=torch.Generator().manual_seed(0))
        self.weights = torch.nn.Parameter(weights)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.weights.T


def test_a_label_that_the_attack_writes_into_the_features_is_seen() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    attack = PgdSettings(5, 0.02, 0.05)
    about = {"batch_size": 30, "device": torch.device("cpu"), "seed": 0}
    grey = ImageSet(generator.integers(126, 130, (60, 4, 4, 3), dtype=np.uint8), labels)
    written = leak(Reads(48), grey, attack, **about)
    assert written["silhouette"] > 0.5
    assert written["scatter_ratio"] > 2
    assert written == leak(Reads(48), grey, attack, **about), "drawn by the seed"
    varied = ImageSet(generator.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8), labels)
    drowned = leak(Reads(48), varied, attack, **about)
    assert drowned["silhouette"] < 0.1, "images that differ by more than the attack may change"
    assert drowned["scatter_ratio"] < 0.2
