"""Specs and plans: what a spec expands to, what makes two runs the same, and every mistake at once."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from srat_fast.cli.options import OPTION_FIELDS
from srat_fast.cli.sweep_show import _memory
from srat_fast.errors import UserError
from srat_fast.recipe import FIELDS, flatten
from srat_fast.registry import threat
from srat_fast.sweep import directory
from srat_fast.sweep.directory import SweepDirectory
from srat_fast.sweep.local import Slot
from srat_fast.sweep.plan import code_version, data_identity, make_plan, memory
from srat_fast.sweep.spec import ABBREVIATIONS, BadSpec, read_tree, spec_from_tree
from tests.sweep.conftest import BASE, toml


def spec_of(text: str):
    return spec_from_tree(tomllib.loads(text), Path("."), "test")


def cells(text: str) -> list[dict]:
    spec = spec_of(text)
    assert not spec.problems
    return spec.cells


def problems(text: str) -> list[str]:
    with pytest.raises(BadSpec) as error:
        make_plan(spec_of(text), "s.toml")
    return error.value.problems


def test_abbreviations_are_the_options_of_train() -> None:
    options = {option[2:].replace("-", "_"): field for option, field in OPTION_FIELDS.items()}
    assert set(ABBREVIATIONS.values()) <= set(FIELDS)
    assert ABBREVIATIONS.items() <= options.items()


def test_grid_zip_runs_exclude_include() -> None:
    grid = cells(
        "[axes]\nmethod = ['ce', 'focal']\nratio = [10, 100]\n[[zip]]\nlr = 1\n".replace(
            "[[zip]]\nlr = 1\n", ""
        )
    )
    assert grid == [{"method": m, "data.ratio": r} for m in ("ce", "focal") for r in (10, 100)]
    zipped = cells(
        "[axes]\nmethod = ['ce', 'focal']\n[[zip]]\nattack.steps = [1, 2]\nattack.step_size = [0.1, 0.05]"
    )
    assert len(zipped) == 4
    assert zipped[1] == {"method": "ce", "attack.steps": 2, "attack.step_size": 0.05}
    two_groups = cells("[[zip]]\noptim.lr = [1, 2]\n[[zip]]\noptim.momentum = [0.1, 0.2, 0.3]")
    assert len(two_groups) == 6
    runs = cells("[[runs]]\nmethod = 'natural'\n[[runs]]\nmethod = 'ce'\noptim.lr = 0.5")
    assert runs == [{"method": "natural"}, {"method": "ce", "optim.lr": 0.5}]
    both = cells("[axes]\nmethod = ['ce', 'focal']\n[[runs]]\nmethod = 'natural'")
    assert [c["method"] for c in both] == ["ce", "focal", "natural"]
    rules = cells(
        "[axes]\nmethod = ['ce', 'focal', 'ldam']\nratio = [10, 100]\n"
        "[[exclude]]\nmethod = ['ce', 'ldam']\nratio = 100\n[[include]]\nmethod = 'focal'\noptim.lr = 0.01"
    )
    assert rules == [
        {"method": "ce", "data.ratio": 10},
        {"method": "focal", "data.ratio": 10, "optim.lr": 0.01},
        {"method": "focal", "data.ratio": 100, "optim.lr": 0.01},
        {"method": "ldam", "data.ratio": 10},
    ]
    assert cells("[base]\nepochs = 3") == [{}]


def test_names_dotted_nested_and_abbreviated_are_the_same() -> None:
    texts = (
        "[base]\nepochs = 7",
        "[base.optim]\nepochs = 7",
        "[base]\noptim.epochs = 7",
        "[base]\n'optim.epochs' = 7",
    )
    assert {tuple(spec_of(text).base.items()) for text in texts} == {(("optim.epochs", 7),)}


def test_seeds_and_the_data_sets_own_recipe() -> None:
    plan = make_plan(spec_of("seeds = 3\n[axes]\ndataset = ['digits', 'cifar10']"), "s")
    assert [t.seed for t in plan.trials] == [0, 0, 1, 1, 2, 2], "stopped early, a sweep has whole seeds"
    widths = [plan.recipe(t).model.width for t in plan.trials]
    assert widths == [16, 64] * 3
    assert plan.trials[3].images == 12406 * 200
    assert len({t.id for t in plan.trials}) == 6
    assert all(t.name.endswith(f"-seed{t.seed}-{t.id}") for t in plan.trials)


def test_processes_of_a_trial_share_its_batch() -> None:
    """Each holds weights and images, and what a forward pass keeps of its part."""
    text = "gpus_per_trial = {}\n[base]\ndataset = 'digits'\nbatch_size = 400\nrun.eval_batch_size = 10"
    one, two = (make_plan(spec_of(text.format(each)), "s") for each in (1, 2))
    (whole, _), (together, recipe) = memory(one, "cpu"), memory(two, "cpu")
    assert recipe.optim.batch_size == 400
    assert whole < together < 2 * whole
    assert memory(two, "cuda")[0] < memory(one, "cuda")[0]
    assert " GiB a process (resnet" in _memory(two, [Slot("0,1", None, 1, "gpu 0,1.0")])


def test_the_id_follows_recipe_data_and_code(tmp_path, image_folder) -> None:
    def only(text: str, code: str | None = None) -> str:
        return make_plan(spec_of(text), "s", code).trials[0].id

    one = only("[base]\ndataset = 'digits'")
    assert only("[base]\ndataset = 'digits'\ndevice = 'cpu'\ndata_root = '/elsewhere'") == one
    assert only("[base]\ndataset = 'digits'\noptim.lr = 0.2") != one
    assert only("[base]\ndataset = 'digits'", "other") != one
    folder = f"[base]\ndataset = 'folder'\ndata_root = {str(image_folder)!r}\nimbalance = 'none'"
    before = only(folder)
    victim = image_folder / "train" / "cat" / "0.png"
    victim.write_bytes(victim.read_bytes() + b"x")
    data_identity.cache_clear()
    assert only(folder) != before


@pytest.mark.parametrize("parts", [False, True])
def test_arrays_of_one_shape_at_two_places_are_two_runs(tmp_path, parts) -> None:
    roots = []
    for number in range(3):
        images = np.full((8, 8, 8, 3), number // 2, np.uint8)  # the first two are equal
        labels = np.arange(8) % 2
        place = tmp_path / str(number)
        place.mkdir()
        if parts:
            for part in ("train", "test"):
                np.savez(place / f"{part}.npz", images=images, labels=labels)
            roots.append(place)
        else:
            roots.append(place / "set.npz")
            arrays = {
                f"{part}_{name}": a
                for part in ("train", "test")
                for name, a in (("images", images), ("labels", labels))
            }
            np.savez(roots[-1], **arrays)
    ids = [
        make_plan(spec_of(f"[base]\ndataset = 'npz'\nimbalance = 'none'\ndata_root = {str(root)!r}"), "s")
        .trials[0]
        .id
        for root in roots
    ]
    assert ids[0] == ids[1] != ids[2]


def test_code_version_follows_the_code_that_computes(tmp_path, monkeypatch) -> None:
    import shutil

    import srat_fast

    package = tmp_path / "srat_fast"
    shutil.copytree(Path(srat_fast.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(srat_fast, "__file__", str(package / "__init__.py"))
    versions = []
    for path in (None, "sweep/plan.py", "cli/app.py", "attacks/pgd.py"):
        if path is not None:
            (package / path).write_text((package / path).read_text() + "\n# changed\n")
        code_version.cache_clear()
        versions.append(code_version())
    code_version.cache_clear()
    assert versions[0] == versions[1] == versions[2] != versions[3]


def test_every_mistake_at_once() -> None:
    found = problems(
        """
        seeds = [0, 0]
        sedes = 3
        baseline = "cee"
        retries = -1
        gpus_per_trial = 0
        [base]
        dataset = "digits"
        optim.epohcs = 3
        method = "ce"
        [axes]
        method = ["ce", "ldam"]
        ratio = [10, 1000]
        loss.temperature = []
        optim.lr = 0.1
        seed = [1]
        [[zip]]
        attack.steps = [1, 2]
        attack.step_size = [0.1]
        [[exclude]]
        ratio = 7
        [[include]]
        optim.momentum = 0.5
        """
    )
    text = "\n".join(found)
    for part in (
        "seeds = [0, 0]: names one twice",
        "sedes: is not part of a sweep's spec; did you mean seeds?",
        "baseline = 'cee': one of natural, ce",
        "retries = -1: integers >= 0",
        "gpus_per_trial = 0: integers >= 1",
        "base: optim.epohcs = 3: is not a recipe field; did you mean optim.epochs?",
        "axes: method: is in [base] too",
        "axes: loss.temperature = []: is empty",
        "axes: optim.lr = 0.1: a list of values is needed",
        "axes: seed = [1]: seeds have a list of their own",
        "zip: lists of one length are needed: attack.steps has 2, attack.step_size has 1",
        "exclude = {'data.ratio': 7}: matches no cell",
        "include = {'optim.momentum': 0.5}: matches no cell",
        "as they are (in the cell method = ce, data.ratio = 1000",
        "data.ratio = 1000.0: class 7 would have no images; at most 124 is possible here, or data.imbalance = none, ",
    ):
        assert part in text, part
    assert all(line.startswith("s.toml: ") for line in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[axes]\nmethod = ['sratt']", "method = 'sratt': one of natural, ce"),
        ("[axes]\noptim.lr = [0.1, 0.1]", "names a value twice"),
        ("[base]\nloss.weight_ratio = 3", "has an effect with loss.weight_rule = ratio only"),
        ("[base]\ndevice = 'cuda:1'", "slots choose the GPU"),
        ("gpus_per_trial = 2\n[base]\nengine = 'reference'", "run.engine = 'reference': fast is needed with 2"),
        ("gpus_per_trial = 2\n[base]\nrun.compile = 'on'", "run.compile = 'on': several processes are not compiled"),
        ("gpus_per_trial = 9\n[base]\nbatch_size = 8", "optim.batch_size = 8: at least an image a process is needed"),
        ("baseline = 'ce'\n[axes]\nmethod = ['focal']", "baseline = 'ce': this sweep runs focal"),
        ("[base]\nepochs = 3\noptim.epochs = 4", "base: optim.epochs = 4: is given twice"),
        ("recipe = 'papr'", "--recipe = 'papr': one of paper"),
        ("seeds = 0", "seeds = 0: at least one is needed"),
        ("[axes]\nmethod = ['ce']\n[[exclude]]\nmethod = 'ce'", "exclude: leaves no run"),
        ("base = 3", "a table [base] is needed"),
        ("[[runs]]", "runs: is empty"),
        ("[axes]\nmethod = ['ce']\n[[include]]\nmethod = 'ce'", "names axes only"),
        ("title = 3", "title = 3: a text is needed"),
    ],
)  # fmt: skip
def test_one_mistake(text, says) -> None:
    (found,) = problems(text)
    assert says in found


def test_lengths_of_another_threat_model_are_given_with_it() -> None:
    """Neither the digits recipe's step nor the paper's radius is taken for one of it."""
    threat("half")(type("Half", (threat["linf"],), {"title": "half"}))
    try:
        text = "seeds = [0]\n[base]\ndataset = 'digits'\nepochs = 1\n[[zip]]\nthreat = ['linf', 'half']\n"
        assert "attack.epsilon = 0.1: is a length in linf; give one in half" in problems(text)[0]
        text += "attack.epsilon = [0.1, 0.4]\n"
        assert "attack.step_size = 0.025: is a length in linf; give one in half" in problems(text)[0]
        lengths = "attack.step_size = 'auto'\neval_attack.step_size = 'auto'\n"
        plan = make_plan(spec_of(text.replace("epochs = 1\n", "epochs = 1\n" + lengths)), "s.toml")
        found = [plan.recipe(trial).resolve().attack for trial in plan.trials]
        assert [(a.threat, a.epsilon, a.step_size) for a in found] == [
            ("linf", 0.1, 2 / 255),
            ("half", 0.4, 0.1),
        ]
    finally:
        threat.remove("half")


def test_equal_cells_are_one_run() -> None:
    plan = make_plan(
        spec_of("[[runs]]\nmethod = 'ce'\n[[runs]]\nmethod = 'ce'\nloss.temperature = 0.07"), "s"
    )
    assert len(plan.trials) == 1
    assert plan.notes == ["1 run(s) of the spec are the same as others and are run once"]


def test_a_plan_of_other_code_is_not_continued_by_chance(tmp_path, monkeypatch) -> None:
    spec = spec_of("[base]\ndataset = 'digits'")
    SweepDirectory.create(tmp_path / "s", spec, "s.toml")
    first = SweepDirectory.open(tmp_path / "s").plan
    monkeypatch.setattr("srat_fast.sweep.directory.code_version", lambda: "0+other")
    with pytest.raises(UserError, match=r"made by code .*, this is 0\+other"):
        SweepDirectory.create(tmp_path / "s", spec, "s.toml")
    sweep = SweepDirectory.create(tmp_path / "s", spec, "s.toml", other_code=True)
    assert sweep.plan == first


@pytest.mark.parametrize("where", ["[base]\nmethod = {}", "[axes]\nmethod = [{}, 'ce']"])
def test_what_was_planned_goes_on_though_it_would_be_refused_today(where, tmp_path, monkeypatch) -> None:
    text = "seeds = [0]\n[base]\ndataset = 'digits'\n" + where.removeprefix("[base]\n").format(
        "'srat:srat-ldam'"
    )
    with pytest.raises(BadSpec) as error:
        SweepDirectory.create(tmp_path / "s", spec_of(text), "s.toml")
    (line,) = error.value.problems
    assert "method = 'srat:srat-ldam': srat-ldam has the separation loss itself (in the cell" in line
    assert not (tmp_path / "s").exists()
    with monkeypatch.context() as earlier:
        earlier.setattr("srat_fast.sweep.plan.require_effect", lambda name: None)
        before = SweepDirectory.create(tmp_path / "s", spec_of(text), "s.toml").plan
    assert SweepDirectory.create(tmp_path / "s", spec_of(text), "s.toml").plan == before
    with pytest.raises(BadSpec):  # further runs of it
        SweepDirectory.create(tmp_path / "s", spec_of(text.replace("[0]", "[0, 1]")), "s.toml")


def test_a_search_that_was_planned_goes_on_too(tmp_path, monkeypatch) -> None:
    text = (
        "[base]\ndataset = 'digits'\ndata.val_fraction = 0.2\n[search]\ntrials = 2\n[search.space]\n"
        "method = ['srat:srat-ldam', 'ce']"
    )
    with pytest.raises(BadSpec, match="has the separation loss itself"):
        SweepDirectory.create(tmp_path / "s", spec_of(text), "s.toml")
    with monkeypatch.context() as earlier:
        earlier.setattr("srat_fast.sweep.plan.require_effect", lambda name: None)
        before = SweepDirectory.create(tmp_path / "s", spec_of(text), "s.toml").plan
    assert SweepDirectory.create(tmp_path / "s", spec_of(text), "s.toml").plan == before


def test_a_sweep_is_planned_and_its_plan_read_once(tmp_path, monkeypatch) -> None:
    spec = spec_of("[base]\ndataset = 'digits'")
    SweepDirectory.create(tmp_path / "s", spec, "s.toml")
    done = []

    def counted(name: str) -> None:
        real = getattr(directory, name)
        monkeypatch.setattr(directory, name, lambda *given: (done.append(name), real(*given))[1])

    for name in ("make_plan", "read_plan", "plan_bytes"):
        counted(name)
    SweepDirectory.create(tmp_path / "s", spec, "s.toml")
    assert done == ["read_plan", "make_plan"]


def test_directories_that_are_no_sweeps(tmp_path) -> None:
    spec = spec_of("[base]\ndataset = 'digits'")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and not a sweep"):
        SweepDirectory.create(tmp_path / "full", spec, "s.toml")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a directory"):
        SweepDirectory.create(tmp_path / "file", spec, "s.toml")
    with pytest.raises(UserError, match="is not a sweep"):
        SweepDirectory.open(tmp_path / "none")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "plan.json").write_text('{"format": 1')
    with pytest.raises(UserError, match="is damaged"):
        SweepDirectory.open(tmp_path / "bad")
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbfseeds = [1]\n")  # a byte order mark
    assert read_tree(tmp_path / "marked.toml") == {"seeds": [1]}
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(UserError, match="is not valid TOML"):
        read_tree(tmp_path / "bad.toml")


def test_a_bad_spec_leaves_nothing_and_one_line_a_mistake(stage) -> None:
    (stage.path / "spec.toml").write_text(toml(BASE | {"seeds": [], "foo": 1}))
    code, text = stage.sweep()
    assert code == 2
    assert sorted(line.partition(": ")[0] for line in text.splitlines()) == ["error", "error"]
    assert not stage.out.exists()


def test_ten_thousand_runs_are_planned_in_seconds(tmp_path) -> None:
    """The promise is 3 s; processor time, as others may be busy here."""
    text = (
        "seeds = 10\n[base]\ndataset = 'cifar10'\n"
        "[axes]\nmethod = ['ce', 'ldam', 'srat-ce', 'srat-focal', 'srat-ldam']\n"
        "ratio = [10, 20, 50, 100]\nloss.separation_weight = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]\n"
        "loss.temperature = [0.05, 0.07, 0.1, 0.2, 0.5]"
    )
    before = time.process_time()
    sweep = SweepDirectory.create(tmp_path / "s", spec_of(text), "s.toml")
    spent = time.process_time() - before
    assert len(sweep.plan.trials) == 10_000
    assert len(SweepDirectory.open(tmp_path / "s").plan.trials) == 10_000
    assert spent < 6


def test_the_sweeps_of_the_papers_claim_plan_and_train_nothing_twice() -> None:
    """An average is judged beside the last weights, whose training is the same."""
    seen = []
    for name, runs in (("claim", 18), ("choices", 6), ("others", 15)):
        path = Path(__file__).parents[2] / "benchmarks" / "sweep" / f"{name}.toml"
        tree = tomllib.loads(path.read_text()) | ({"seeds": [0, 1, 2]} if name == "claim" else {})
        tree["base"]["dataset"] = "cifar10"  # whose counts are known without its images
        plan = make_plan(spec_from_tree(tree, path.parent, name), name)
        assert len(plan.trials) == runs
        assert plan.published == "cifar10"
        for trial in plan.trials:
            fields = flatten(plan.recipe(trial))
            seen.append(tuple(str(value) for key, value in fields.items() if key != "optim.ema_decay"))
    assert len(set(seen)) == len(seen) == 39
