"""The tool that builds netx_models/, and what lies there."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from loihi_convert import netx
from loihi_convert.cnn.checkpoint import load
from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.cnn.train import train
from loihi_convert.data import load_data
from loihi_convert.files import sha256

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "netx_models").glob("*/card.json"))


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("netx_models")


@pytest.mark.lava
def test_a_folder_is_built_and_its_files_give_what_its_card_says(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_data("digits")
    recipe = replace(default_recipe("digits"), epochs=8, averaging=0.95)
    plain = train("digits-cnn", digits, recipe, seed=0, output=tmp_path / "model.safetensors")
    few = replace(recipe, epochs=2, learning_rate=1e-3)
    train("digits-cnn", digits, few, seed=0, output=tmp_path / "q2.safetensors", qcfs_levels=2, start=plain)
    folder = tmp_path / "digits"
    checkpoints = [str(tmp_path / name) for name in ("model.safetensors", "q2.safetensors")]
    monkeypatch.setattr(sys, "argv", ["", "build", str(folder), *checkpoints, "-T", "1,8", "--sim-images", "5"])
    assert tool.main() == 0
    card = tool.read_card(folder)
    assert capsys.readouterr().out == tool.card_page(card) == (folder / "README.md").read_text()
    assert card["cnn_test_accuracy"] == plain.test_accuracy
    for network in card["networks"]:
        every = network["validation_correct_of_all"]
        assert network["validation_correct"] == max(every.values())
        assert every[network["checkpoint"]] == max(every.values())
        assert network["sim"]["equal_to_ref"] == 5
        result = tool.run_network(netx.read(folder / network["file"]), digits.test.images, network["timesteps"])
        right = int((result.predictions[:, -1] == digits.test.known_labels).sum())
        (test,) = network["test"]
        assert (test["correct"], test["accuracy"]) == (right, right / 400)
    # Files that exist are not made again, and a card of two seeds is their mean.
    monkeypatch.setattr(tool.pipeline, "export", None)
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "0"])
    assert tool.main() == 0
    assert "mean difference" in tool.mean_table([card, card])


def test_most_validation_images_win_and_the_first_among_equals(tool: ModuleType) -> None:
    names = {"plain1": (1, 90), "plain4": (4, 95), "q1": (1, 90), "q4": (4, 94), "q41": (4, 95)}
    files = [tool.Candidate(Path(name), Path(name), *numbers) for name, numbers in names.items()]
    assert tool.best_for(files, 1).path.name == "plain1"
    assert tool.best_for(files, 4).path.name == "plain4"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_lies_in_netx_models_is_what_its_card_says(tool: ModuleType, folder: Path) -> None:
    card = tool.read_card(folder)
    assert tool.card_page(card) == (folder / "README.md").read_text()
    for item in (*card["checkpoints"], *card["networks"]):
        path = folder / item["file"]
        assert path.exists() == item["in_repository"]
        if path.exists():
            assert (sha256(path), path.stat().st_size) == (item["sha256"], item["bytes"])
            assert item["bytes"] <= tool.LARGEST_FILE
    for item in card["networks"]:
        if item["in_repository"]:
            network = netx.read(folder / item["file"])
            assert network.timesteps == item["timesteps"]
            assert network.provenance["model"]["file"] == item["checkpoint"]
    for item in card["checkpoints"]:
        if item["in_repository"]:
            assert load(folder / item["file"]).test_accuracy == item["test_accuracy"]
