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

import pytest
import torch

from loihi_convert import cli, netx
from loihi_convert.__main__ import exit_code
from loihi_convert.cnn.checkpoint import Checkpoint, load, save
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.recipe import fine_tuning_recipe, paper_recipe
from loihi_convert.data import load_data
from loihi_convert.errors import InputError
from loihi_convert.files import sha256

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "netx_models").glob("*/card.json"))


@pytest.fixture
def cards(tool: ModuleType) -> ModuleType:
    return importlib.import_module("netx_cards")


PLAN = """
sim_images = 5

[[checkpoint]]
file = "cnn.safetensors"
train = "--data digits --epochs 2"

[[checkpoint]]
file = "cnn-qcfs-L2.safetensors"
train = "--from cnn.safetensors --qcfs 2 --epochs 1"

[[checkpoint]]
file = "other.safetensors"
train = "--data digits --epochs 1"
further = true

[[export]]
from = ["cnn.safetensors", "cnn-qcfs-L2.safetensors"]
timesteps = [1]

[[export]]
from = ["cnn.safetensors"]
timesteps = [8]
options = "--balance percentile --percentile 50"
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


def build(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["", "build", str(folder)])
    code: int = tool.main()
    return code


def run_here(command: list[str], cwd: Path, check: bool) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` of ``python -m loihi_convert``, in this process, which need not import torch again."""
    words = command[3:]
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
        "loihi-convert train --data digits --epochs 2 --test --store float16 --seed 0 -o cnn.safetensors"
    )
    page = tool.card_page(card)
    assert all(f"{sha256(folder / item['file'])}  {item['file']}\n" in page for item in card["networks"])
    assert [item["file"] for item in card["checkpoints"]] == ["cnn.safetensors", "cnn-qcfs-L2.safetensors"]
    assert [item["file"] for item in card["further_checkpoints"]] == ["other.safetensors"]
    digits = load_data("digits")
    assert [network["timesteps"] for network in card["networks"]] == [1, 8]
    for network in card["networks"]:
        every = network["validation_correct_of_all"]
        assert len(every) == {1: 2, 8: 1}[network["timesteps"]]
        assert network["validation_correct"] == max(every.values())
        chosen = network["commands"][0].removeprefix("loihi-convert ")
        assert chosen == next(words for words, correct in every.items() if correct == max(every.values()))
        assert network["sim"]["equal_to_ref"] == 5
        result = tool.run_network(netx.read(folder / network["file"]), digits.test.images, network["timesteps"])
        right = int((result.predictions[:, -1] == digits.test.known_labels).sum())
        (test,) = network["test"]
        assert (test["correct"], test["accuracy"]) == (right, right / 400)
    # What is there is not made or measured again.
    monkeypatch.setattr(tool.subprocess, "run", None)
    monkeypatch.setattr(tool, "correct_at", None)
    single = card["best_single_file"]["timesteps"]
    monkeypatch.setattr(
        tool, "best_single", lambda files, *_: next(one for one in files if one.candidate.timesteps == single)
    )
    assert build(tool, monkeypatch, folder) == 0
    assert tool.read_card(folder)["networks"] == card["networks"]
    assert "mean difference" in tool.mean_table([card, card])


def test_a_file_of_another_command_or_checkpoint_is_refused(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "build.toml").write_text(SMALL_PLAN)
    state = build_model("digits-cnn", (1, 8, 8), 10).state_dict()
    # Not trained, which would take the most time here.
    recipe = asdict(paper_recipe("mnist"))
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
    item = tool.Trained("cnn.safetensors", "--data digits")
    plan = tool.Plan((item,), (), seed=3, store="float16", sim_images=0)
    for name in ("other", "cnn.safetensors.resume.pt", "cnn.safetensors"):
        (tmp_path / name).touch()
        tool.train(item, tmp_path, plan, None)
    words = "train --data digits --test --store float16 --seed 3 -o cnn.safetensors"
    assert commands == [words, f"{words} --resume"]


@pytest.mark.parametrize(
    ("plan", "found"),
    [
        ("", "not a plan (KeyError: 'checkpoint')"),
        ("sim_images =", "not a plan (TOMLDecodeError"),
        (PLAN.replace('from = ["cnn.safetensors"]', 'from = ["q4.safetensors"]'), "exports q4.safetensors"),
        (SMALL_PLAN.replace("timesteps = [1]", "timesteps = []"), "nothing"),
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
    exported = [tool.Exported(tmp_path / "a.net", tool.Candidate("cnn.pt", 8, ""), 1)]
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
    plan = tool.Plan((), (), seed=0, store="float16", sim_images=1)
    again = tool.Trained("again.pt", "--from cnn.pt -T 4 --seed 1")
    assert tool.train_words(tool.Trained("cnn.pt", "--data mnist"), plan).endswith("--store float16 --seed 0 -o cnn.pt")
    assert tool.train_words(again, plan) == "train --from cnn.pt -T 4 --seed 1 --test --store float16 -o again.pt"


def test_names_with_spaces_are_quoted(tool: ModuleType) -> None:
    plan = tool.Plan((), (), seed=0, store="float32", sim_images=1)
    assert tool.train_words(tool.Trained("my cnn.pt", "--data mnist"), plan) == (
        "train --data mnist --test --seed 0 -o 'my cnn.pt'"
    )
    words = tool.export_words(tool.Candidate("my cnn.pt", 4, "--bias-correction"), "/my folder/a.net")
    assert words == "export 'my cnn.pt' -T 4 --bias-correction -o '/my folder/a.net'"


def test_a_mean_takes_the_same_t_in_each_folder(cards: ModuleType) -> None:
    def card(data: str, seed: int, *accuracies: tuple[int, float]) -> dict[str, Any]:
        networks = [{"timesteps": steps, "test": [{"accuracy": accuracy}]} for steps, accuracy in accuracies]
        return {"data": data, "seed": seed, "cnn_test_accuracy": 0.9, "networks": networks}

    first, second = card("digits", 0, (1, 0.8), (4, 0.9)), card("digits", 1, (1, 0.7), (4, 0.88))
    mean, difference = cards.mean_table([first, second]).splitlines()[-2:]
    assert [word.strip() for word in mean.split("|")[1:-1]] == ["mean", "90.00", "75.00", "89.00"]
    assert [word.strip() for word in difference.split("|")[1:-1]] == ["mean difference", "", "-15.00", "-1.00"]
    for other, found in (
        (card("digits", 1, (1, 0.7), (8, 0.9)), "digits for T = 1, 8"),
        (card("digits", 1, (1, 0.7)), "digits for T = 1"),
        (card("mnist", 1, (1, 0.7), (4, 0.9)), "mnist for T = 1, 4"),
    ):
        message = f"^table: folder 2 holds networks of {found}, the first one of digits for T = 1, 4; all folders"
        with pytest.raises(InputError, match=message):
            cards.mean_table([first, other])


def test_a_card_says_which_files_were_chosen_among_several(cards: ModuleType) -> None:
    card = cards.read_card(ROOT / "netx_models" / "mnist")
    for candidates, words in (
        (dict.fromkeys((1, 2, 4, 8, 16, 64), 1), ""),
        (
            {1: 2, 2: 1, 4: 3, 8: 1, 16: 1, 64: 1},
            "For T = 1, 4 the file was chosen among several on 5,000 validation images.",
        ),
        (
            dict.fromkeys((1, 2, 4, 8, 16, 64), 2),
            "Each file was chosen among several on 5,000 validation images.",
        ),
    ):
        networks = [
            {**each, "validation_correct_of_all": dict.fromkeys(range(candidates[each["timesteps"]]), 1)}
            for each in card["networks"]
        ]
        page = cards.card_page({**card, "networks": networks})
        assert words in page
        assert page.count("chosen") == bool(words)


def test_the_papers_accuracies_are_its_best_at_each_t(tool: ModuleType) -> None:
    assert tool.papers_best("mnist", 4) == {"paper": {"accuracy": 99.14, "alpha": 0.4}}
    assert tool.papers_best("fashion-mnist", 512) == {"paper": {"accuracy": 92.11, "alpha": 1.0}}
    assert tool.papers_best("cifar10", 2048) == {"paper": {"accuracy": 92.47, "alpha": 1.0}}
    assert tool.papers_best("mnist", 1) == tool.papers_best("digits", 4) == tool.papers_cnn("digits") == {}
    assert tool.papers_cnn("cifar10") == {"paper_cnn_accuracy": 93.28}


def test_most_validation_images_win_and_the_first_among_equals(tool: ModuleType) -> None:
    names = {"plain1": (1, 90), "plain4": (4, 95), "q1": (1, 90), "q4": (4, 94), "q41": (4, 95)}
    files = [
        tool.Exported(Path(name), tool.Candidate(name, timesteps, ""), correct)
        for name, (timesteps, correct) in names.items()
    ]
    assert tool.best_for(files, 1).path.name == "plain1"
    assert tool.best_for(files, 4).path.name == "plain4"


def test_a_plan_says_which_large_files_go_into_the_repository_and_which_small_ones_do_not(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "LARGEST_FILE", 3)
    (tmp_path / "folder").mkdir()
    plan = tool.Plan((), (), seed=0, store="float16", sim_images=0, large_files=("named",), omitted_files=("rare",))
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
            network = netx.read(folder / item["file"])
            assert network.timesteps == item["timesteps"]
            assert network.provenance["model"]["file"] == item["checkpoint"]
    for item in checkpoints:
        if item["in_repository"]:
            assert load(folder / item["file"]).test_accuracy == item["test_accuracy"]
