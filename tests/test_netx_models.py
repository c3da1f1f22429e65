"""The tool that builds netx_models/, and the contents of that folder."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from loihi_convert import cli, netx
from loihi_convert.__main__ import exit_code
from loihi_convert.cnn.checkpoint import Checkpoint, load, save
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.recipe import fine_tuning_recipe, paper_recipe
from loihi_convert.data import load_data
from loihi_convert.errors import InputError
from loihi_convert.ground.files import sha256

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "netx_models").glob("*/card.json"))


@pytest.fixture
def cards(tool: ModuleType) -> ModuleType:
    return importlib.import_module("netx_cards")


PLAN = """
sim_images = 5
further_seeds = [1]
threads = 1

[[checkpoint]]
file = "cnn.safetensors"
train = "--data digits --epochs 2"

[[checkpoint]]
file = "cnn-qcfs-L2.safetensors"
train = "--from cnn.safetensors --qcfs 2 --epochs 1"

[[checkpoint]]
file = "other.safetensors"
train = "--data digits --epochs 1"
processor = "abacus"
further = true

[[export]]
from = ["cnn.safetensors", "cnn-qcfs-L2.safetensors"]
timesteps = [1]
options = "--balance percentile"

[[export]]
from = ["cnn.safetensors"]
timesteps = [1, 8]
options = "--balance percentile --percentile 50"
"""
CHOICE_PLAN = """
sim_images = 0
threads = 1

[[checkpoint]]
file = "cnn.safetensors"
train = "--data digits --epochs 4"

[[export]]
from = ["cnn.safetensors"]
timesteps = [1, 8]
options = "--balance percentile --percentile 20"

[[export]]
from = ["cnn.safetensors"]
timesteps = [1, 8]
options = "--balance percentile --percentile 99"
"""
SMALL_PLAN = """
sim_images = 0

[[checkpoint]]
file = "cnn.safetensors"
train = "--data digits --epochs 1"

[[export]]
from = ["cnn.safetensors"]
timesteps = [1]
options = "--balance percentile"
"""


def plan_of(tool: ModuleType, **changes: Any) -> Any:
    return tool.Plan.model_construct(**{"checkpoint": (), "export": (), "seed": 0, **changes})


def build(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["", "build", str(folder)])
    code: int = tool.main()
    return code


def run_here(command: list[str], cwd: Path, check: bool, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` of ``python -m loihi_convert``, in this process, which need not import torch again."""
    words = command[3:]
    assert env.get("OMP_NUM_THREADS") == "1" or words[0] != "train"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["loihi-convert", *words])
        return subprocess.CompletedProcess(command, exit_code(lambda: cli.app(words, standalone_mode=False)))


@pytest.mark.lava
def test_a_folder_is_built_and_its_files_give_what_its_card_says(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "build.toml").write_text(PLAN)
    with monkeypatch.context() as context:
        context.setattr(tool.subprocess, "run", run_here)
        assert build(tool, context, folder) == 0
    card = tool.read_card(folder)
    assert capsys.readouterr().out == tool.card_page(card) == (folder / "README.md").read_text()
    cnn = load(folder / "cnn.safetensors")
    assert (card["cnn_test_accuracy"], cnn.stored_as) == (cnn.test_accuracy, "float16")
    assert card["layers"] == "8x8-16c3-2ap-32c3-2ap-10o"
    assert card["checkpoints"][0]["command"] == (
        "OMP_NUM_THREADS=1 loihi-convert train --data digits --epochs 2 --test --store float16 --seed 0 "
        "-o cnn.safetensors"
    )
    page = tool.card_page(card)
    assert all(f"{sha256(folder / item['file'])}  {item['file']}\n" in page for item in card["networks"])
    assert [item["file"] for item in card["checkpoints"]] == ["cnn.safetensors", "cnn-qcfs-L2.safetensors"]
    (other,) = card["further_checkpoints"]
    assert (other["file"], other["processor"]) == ("other.safetensors", "abacus")
    kinds = [(network["timesteps"], network["kind"]) for network in card["networks"]]
    assert kinds == [(1, "converted"), (1, "fine-tuned"), (8, "converted")]
    for network in card["networks"]:
        every = network["validation_correct_of_all"]
        assert len(every) == {(1, "converted"): 2}.get((network["timesteps"], network["kind"]), 1)
        assert network["validation_correct"] == max(every.values())
        assert network["sim"]["equal_to_ref"] == 5
        assert_as_stated(tool, folder, network, network["commands"][0], every)
    one, two, _ = card["networks"]
    names = ["model-T1.net", "fine-tuned-T1.net"], ["converted-T1.net", "model-T1.net"]
    assert [one["file"], two["file"]] == names[one["validation_correct"] < two["validation_correct"]]
    (again,) = card["further_seeds"]
    assert again["seed"] == 1
    assert again["cnn_test_accuracy"] == load(tmp_path / "digits-seed-1/cnn.safetensors").test_accuracy
    assert [(network["timesteps"], network["kind"]) for network in again["networks"]] == kinds
    assert not (tmp_path / "digits-seed-1/other.safetensors").exists()
    # What is there is not made or measured again.
    monkeypatch.setattr(tool.subprocess, "run", None)
    monkeypatch.setattr(tool, "correct_at", None)
    assert build(tool, monkeypatch, folder) == 0
    assert tool.read_card(folder) == card


def assert_as_stated(
    tool: ModuleType, folder: Path, network: dict[str, Any], command: str, every: dict[str, int]
) -> None:
    """The file is that of the first best candidate, and gives the accuracy on the card."""
    digits = load_data("digits")
    assert command.removeprefix("loihi-convert ") == max(every, key=lambda words: every[words])
    result = tool.run_network(netx.read(folder / network["file"]), digits.test.images, network["timesteps"])
    right = int((result.predictions[:, -1] == digits.test.known_labels).sum())
    (test,) = network["test"]
    assert (test["correct"], test["accuracy"]) == (right, right / 400)


def test_files_are_chosen_on_validation_images_also_where_test_images_would_choose_others(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each test image has another label than its own: the better a file is, the fewer of them it gets right."""
    digits = load_data("digits")
    wrong = replace(digits, test=replace(digits.test, labels=(digits.test.known_labels + 1) % 10))
    monkeypatch.setattr(tool, "load_data", lambda *_: wrong)
    monkeypatch.setattr(tool.subprocess, "run", run_here)
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "build.toml").write_text(CHOICE_PLAN)
    assert build(tool, monkeypatch, folder) == 0
    card = tool.read_card(folder)

    def correct(part: str, percentile: int, balanced: int, *steps: int) -> int:
        path = tmp_path / f"digits-candidates/cnn-T{balanced}-balancepercentile-percentile{percentile}.net"
        return sum(tool.correct_at(path, steps or (balanced,), getattr(wrong, part)))

    for network, steps in zip(card["networks"], (1, 8), strict=True):
        assert correct("validation", 99, steps) > correct("validation", 20, steps)
        assert correct("test", 99, steps) < correct("test", 20, steps)
        assert "--percentile 99 " in network["commands"][0]
    # The label of each test image is now that which the file for the other T gives it.
    single = card["best_single_file"]["timesteps"]
    (other,) = {1, 8} - {single}
    ran = tool.run_network(netx.read(folder / f"model-T{other}.net"), digits.test.images, other)
    wrong = replace(digits, test=replace(digits.test, labels=ran.predictions[:, -1].astype(np.int64)))
    assert build(tool, monkeypatch, folder) == 0
    assert correct("test", 99, other, 1, 8) > correct("test", 99, single, 1, 8)
    assert tool.read_card(folder)["best_single_file"]["timesteps"] == single


def test_a_file_of_another_command_or_checkpoint_is_refused(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "build.toml").write_text(SMALL_PLAN)
    state = build_model("digits-cnn", (1, 8, 8), 10).state_dict()
    # Not trained, which would take the most time here.
    recipe = {**asdict(paper_recipe("mnist")), "threads": 1}
    cnn = Checkpoint("digits-cnn", state, "digits", (1, 8, 8), tuple("0123456789"), 0, 0.5, 0.5, recipe)
    save(cnn, folder / "cnn.safetensors")
    assert build(tool, monkeypatch, folder) == 0
    (folder / "build.toml").write_text(SMALL_PLAN.replace("--epochs 1", "--epochs 2"))
    capsys.readouterr()
    assert build(tool, monkeypatch, folder) == InputError.exit_code
    refused = r"error: .*cnn\.safetensors: was trained by `loihi-convert train --data digits --epochs 1 --test --store "
    assert re.search(refused, capsys.readouterr().err)
    (folder / "build.toml").write_text(SMALL_PLAN)
    save(replace(cnn, state={name: -tensor for name, tensor in state.items()}), folder / "cnn.safetensors")
    assert build(tool, monkeypatch, folder) == InputError.exit_code
    refused = r"error: .*cnn-T1-balancepercentile\.net: was not exported from cnn\.safetensors as it is"
    assert re.search(refused, capsys.readouterr().err)


def test_an_interrupted_training_is_continued(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    monkeypatch.setattr(tool, "_command", lambda words, *_: commands.append(words))
    item = tool.Trained(file="cnn.safetensors", train="--data digits")
    plan = plan_of(tool, checkpoint=(item,), seed=3)
    for name in ("other", "cnn.safetensors.resume.pt", "cnn.safetensors"):
        (tmp_path / name).touch()
        tool.train(item, tmp_path, plan, None)
    words = "train --data digits --test --store float16 --seed 3 -o cnn.safetensors"
    assert commands == [words, f"{words} --resume"]


@pytest.mark.parametrize(
    ("plan", "found"),
    [
        ("", "export\n  Field required"),
        ("sim_images =", "not a plan (Invalid value"),
        (PLAN.replace('from = ["cnn.safetensors"]', 'from = ["q4.safetensors"]'), "exports q4.safetensors"),
        (SMALL_PLAN.replace("timesteps = [1]", "timesteps = []"), "timesteps\n"),
    ],
)
def test_a_plan_with_a_mistake_is_refused(tool: ModuleType, tmp_path: Path, plan: str, found: str) -> None:
    (tmp_path / "build.toml").write_text(plan)
    with pytest.raises(InputError) as caught:
        tool.read_plan(tmp_path)
    assert caught.value.where == str(tmp_path / "build.toml")
    assert found in caught.value.found


def test_a_command_that_fails_ends_the_build(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "build.toml").write_text(PLAN.replace("--data digits", "--data digit"))
    assert build(tool, monkeypatch, tmp_path) == InputError.exit_code
    assert "loihi-convert train --data digit --epochs 2" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors"))


def test_where_no_file_fits_for_all_t_a_card_names_none(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Proven:
        max_timesteps = 7

    monkeypatch.setattr(tool.netx, "read", lambda _: Proven)
    exported = [tool.Exported(tmp_path / "a.net", tool.Candidate("cnn.pt", 8, "", "converted"), 1)]
    assert tool.best_single(exported, (1, 8), load_data("digits").validation) is None


def test_layers_are_written_as_in_the_literature(tool: ModuleType) -> None:
    random_state = torch.random.get_rng_state()
    assert tool.notation("mnist-cnn", (1, 28, 28), 10) == "28x28-12c5-2ap-64c5-2ap-10o"
    assert tool.notation("vgg16", (3, 32, 64), 7) == (
        "32x64x3-64c3-64c3-2ap-128c3-128c3-2ap-256c3-256c3-256c3-2ap-512c3-512c3-512c3-2ap-512c3-512c3-512c3-2ap"
        "-512fc-512fc-7o"
    )
    assert tool.notation("resnet20", (3, 32, 32), 10) == (
        "32x32x3-16c3" + 3 * "-[16c3-16c3]" + 3 * "-[32c3-32c3]" + 3 * "-[64c3-64c3]" + "-gap-10o"
    )
    assert tool.notation("conv3-max", (1, 28, 28), 10) == "28x28-32c3-2mp-64c3-2mp-128c3-10o"
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_recipes_in_words(cards: ModuleType) -> None:
    record = asdict(replace(paper_recipe("fashion-mnist"), cutout=8))
    assert cards.recipe_in_words(record, None) == (
        "250 epochs, batches of 50, Adam, learning rate 0.001, a tenth after 72 % of the epochs, spatial dropout 0.5, "
        "cut-out 8"
    )
    # A record of before there were other schedules.
    record = {name: value for name, value in asdict(fine_tuning_recipe("cifar10")).items() if name != "schedule"}
    assert cards.recipe_in_words({**record, "start": {}, "weight_bits": 4}, 2) == (
        "fine-tuned, L = 2, weights of 4 bits, 8 epochs, batches of 128, AdamW (weight decay 0.02), one cycle up to "
        "learning rate 0.001, label smoothing 0.05, weights averaged by 0.999, translation 0.125, flip"
    )
    through_spikes = cards.recipe_in_words({**record, "start": {}, "timesteps": 4}, 4)
    assert through_spikes.startswith("fine-tuned, L = 4, through spikes, T = 4, 8 epochs, ")
    teacher = {"architecture": "vgg16", "sha256": "0", "share": 0.9, "temperature": 4.0}
    taught = cards.recipe_in_words({**record, "start": {}, "teacher": teacher}, 4)
    assert taught.startswith("fine-tuned, taught by a vgg16 (share 0.9, temperature 4), L = 4, 8 epochs, ")


def test_a_checkpoint_may_have_its_own_seed(tool: ModuleType) -> None:
    plan = plan_of(tool)
    again = tool.Trained(file="again.pt", train="--from cnn.pt -T 4 --seed 1")
    assert tool.train_words(tool.Trained(file="cnn.pt", train="--data mnist"), plan).endswith(
        "--test --store float16 --seed 0 -o cnn.pt"
    )
    assert tool.train_words(again, plan) == "train --from cnn.pt -T 4 --seed 1 --test --store float16 -o again.pt"


def test_names_with_spaces_are_quoted(tool: ModuleType) -> None:
    plan = plan_of(tool, store="float32")
    assert tool.train_words(tool.Trained(file="my cnn.pt", train="--data mnist"), plan) == (
        "train --data mnist --test --seed 0 -o 'my cnn.pt'"
    )
    words = tool.export_words(tool.Candidate("my cnn.pt", 4, "--bias-correction", "converted"), "/my folder/a.net")
    assert words == "export 'my cnn.pt' -T 4 --bias-correction -o '/my folder/a.net'"


def test_a_mean_is_over_all_seeds_or_not_given(cards: ModuleType) -> None:
    def seed(number: int, *accuracies: tuple[str, int, float]) -> dict[str, Any]:
        networks = [
            {"kind": kind, "timesteps": steps, "test": [{"accuracy": accuracy}]} for kind, steps, accuracy in accuracies
        ]
        return {"seed": number, "cnn_test_accuracy": 0.9 + number / 100, "networks": networks}

    card = seed(0, ("converted", 1, 0.7), ("fine-tuned", 1, 0.8), ("converted", 4, 0.9))
    assert cards.mean_in_words(cards.accuracies(card, "converted", 4)) == "90.00"
    card["further_seeds"] = [seed(1, ("converted", 1, 0.72), ("converted", 4, 0.88)), seed(2, ("converted", 1, 0.74))]
    found = {
        (kind, steps): cards.mean_in_words(cards.accuracies(card, kind, steps))
        for kind in cards.KINDS
        for steps in (None, 1, 4)
    }
    assert found == {
        ("converted", None): "91.00 ± 1.00",
        ("converted", 1): "72.00 ± 2.00",
        ("converted", 4): "",
        ("fine-tuned", None): "91.00 ± 1.00",
        ("fine-tuned", 1): "",
        ("fine-tuned", 4): "",
    }
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in cards.seeds_table(card).splitlines()]
    assert rows[0] == ["%", "seed", "CNN", "T = 1", "T = 4"]
    assert rows[3:6] == [
        ["converted", "1", "91.00", "72.00", ""],
        ["converted", "2", "92.00", "74.00", ""],
        ["**converted**", "mean", "91.00 ± 1.00", "72.00 ± 2.00", ""],
    ]


def test_the_papers_accuracies_are_its_best_at_each_t(tool: ModuleType) -> None:
    assert tool.papers_best("mnist", 4) == {"paper": {"accuracy": 99.14, "alpha": 0.4}}
    assert tool.papers_best("fashion-mnist", 512) == {"paper": {"accuracy": 92.11, "alpha": 1.0}}
    assert tool.papers_best("cifar10", 2048) == {"paper": {"accuracy": 92.47, "alpha": 1.0}}
    assert tool.papers_best("mnist", 1) == tool.papers_best("digits", 4) == {}


def test_the_better_kind_is_the_model_and_the_first_among_equals_is_taken(tool: ModuleType) -> None:
    candidates = {
        "plain1": (1, "converted", 90),
        "plain4": (4, "converted", 95),
        "plain8": (8, "converted", 96),
        "q1": (1, "fine-tuned", 90),
        "q4": (4, "fine-tuned", 94),
        "q41": (4, "fine-tuned", 96),
        "q42": (4, "fine-tuned", 96),
    }
    files = [
        tool.Exported(Path(name), tool.Candidate(name, timesteps, "", kind), correct)
        for name, (timesteps, kind, correct) in candidates.items()
    ]
    assert {name: one.path.name for name, one in tool.chosen_files(files).items()} == {
        "model-T1.net": "plain1",
        "fine-tuned-T1.net": "q1",
        "converted-T4.net": "plain4",
        "model-T4.net": "q41",
        "model-T8.net": "plain8",
    }


def test_a_plan_says_which_large_files_go_into_the_repository_and_which_small_ones_do_not(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "LARGEST_FILE", 3)
    (tmp_path / "folder").mkdir()
    plan = plan_of(tool, large_files=("named",), omitted_files=("rare",))
    for name, size, is_stored in (("small", 3, True), ("large", 4, False), ("named", 4, True), ("rare", 3, False)):
        candidate = tmp_path / "candidate"
        candidate.write_bytes(bytes(size))
        described = tool._file(candidate, tmp_path / "folder", name, plan)
        assert (described["bytes"], described["in_repository"]) == (size, is_stored)
        assert (tmp_path / "folder" / name).exists() == is_stored


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_lies_in_netx_models_is_what_its_card_says(tool: ModuleType, folder: Path) -> None:
    card = tool.read_card(folder)
    plan = tool.read_plan(folder)
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, check=True, capture_output=True, text=True)
    committed = set(listed.stdout.splitlines())
    checkpoints = (*card["checkpoints"], *card.get("further_checkpoints", ()))
    assert tool.card_page(card) == (folder / "README.md").read_text()
    for item in (*checkpoints, *card["networks"]):
        path = folder / item["file"]
        assert plan.stores(item["file"], item["bytes"]) == item["in_repository"]
        # Whoever builds a folder also has its large files, uncommitted.
        assert (path.relative_to(ROOT).as_posix() in committed) == item["in_repository"]
        if path.exists():
            assert (sha256(path), path.stat().st_size) == (item["sha256"], item["bytes"])
    for item in card["networks"]:
        if item["in_repository"]:
            stored = netx.read_stored(folder / item["file"])
            assert stored.integers_sha256 == item["integers_sha256"]
            network = stored.network
            assert network.timesteps == item["timesteps"]
            assert network.provenance["model"]["file"] == item["checkpoint"]
    for item in checkpoints:
        if item["in_repository"]:
            assert load(folder / item["file"]).test_accuracy == item["test_accuracy"]
