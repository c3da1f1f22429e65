"""The tool that builds netx_models/, and the contents of that folder."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from loihi_convert import netx
from loihi_convert.cnn.checkpoint import Checkpoint, digest, load, save
from loihi_convert.cnn.float16 import round_to_float16
from loihi_convert.cnn.recipe import default_recipe, fine_tuning_recipe, paper_recipe
from loihi_convert.cnn.training import train
from loihi_convert.data import load_data
from loihi_convert.errors import InputError
from loihi_convert.files import sha256

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "netx_models").glob("*/card.json"))


@pytest.fixture
def cards(tool: ModuleType) -> ModuleType:
    return importlib.import_module("netx_cards")


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
    assert card["layers"] == "8x8-16c3-2ap-32c3-2ap-10o"
    assert [item["command"] for item in card["checkpoints"]] == [
        f"# {item['file']}: trained from Python, with the recipe in card.json" for item in card["checkpoints"]
    ]
    page = tool.card_page(card)
    assert f" s, threads: {torch.get_num_threads()}, {plain.recipe['arithmetic']}." in page
    assert all(f"{sha256(folder / item['file'])}  {item['file']}\n" in page for item in card["networks"])
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


def build(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: Path | str) -> None:
    options = ("-T", "1", "--sim-images", "0")
    monkeypatch.setattr(sys, "argv", ["", "build", *map(str, words), *options])
    assert tool.main() == 0


def test_a_checkpoint_that_is_too_large_is_replaced_by_a_copy_in_float16(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_data("digits")
    model = tmp_path / "model.safetensors"
    plain = train("digits-cnn", digits, replace(default_recipe("digits"), epochs=2), seed=0, output=model)
    monkeypatch.setattr(tool, "LARGEST_FILE", model.stat().st_size - 1)
    folder = tmp_path / "digits"
    build(tool, monkeypatch, folder, model)
    card = tool.read_card(folder)
    (item,) = card["checkpoints"]
    assert (item["file"], item["copy_of"], item["stored_as"], item["in_repository"]) == (
        "model-float16.safetensors",
        "model.safetensors",
        "float16",
        True,
    )
    copy = load(folder / "model-float16.safetensors")
    rounded = round_to_float16(plain.state, model)
    assert all(torch.equal(copy.state[name], rounded[name]) for name in rounded)
    assert item["test_accuracy"] == copy.test_accuracy == card["cnn_test_accuracy"]
    exported = netx.read(tmp_path / "digits-candidates" / "model-float16-T1.net").provenance["model"]
    assert (exported["file"], exported["sha256"]) == (item["file"], item["sha256"])
    page = (folder / "README.md").read_text()
    assert "train --data digits --epochs 2 --seed 0 -o model.safetensors\n" in page
    assert "python tools/netx_models.py float16 model.safetensors\n" in page
    assert "export model-float16.safetensors -T 1 -o model-T1.net\n" in page
    # The copy that is there is taken, and so is the file made from it.
    with monkeypatch.context() as patch:
        patch.setattr(tool, "in_float16", None)
        patch.setattr(tool.pipeline, "export", None)
        build(tool, patch, folder, model)
    assert tool.read_card(folder) == card
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["", "float16", str(model)])
    assert tool.main() == 0
    assert capsys.readouterr().out == f"{tmp_path / 'model-float16.safetensors'}\n"
    assert load(tmp_path / "model-float16.safetensors").test_accuracy == copy.test_accuracy
    # Of another checkpoint with the same name the copy is made anew, and the file is refused.
    save(replace(plain, state={name: tensor / 3 for name, tensor in plain.state.items()}), model)
    monkeypatch.setattr(sys, "argv", ["", "build", str(folder), str(model), "-T", "1"])
    assert tool.main() == InputError.exit_code
    refused = capsys.readouterr().err
    assert re.search(r"error: .*model-float16-T1\.net: was not exported from .* as it is now\. Delete it", refused)
    monkeypatch.setattr(sys, "argv", ["", "extend", str(folder), str(model), "-T", "4"])
    assert tool.main() == InputError.exit_code
    refused = capsys.readouterr().err
    assert re.search(r"model-float16\.safetensors: differs from the model-float16\.safetensors in ", refused)


def test_checkpoints_are_added_to_a_folder(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_data("digits")
    model, more = tmp_path / "model.safetensors", tmp_path / "more.safetensors"
    plain = train("digits-cnn", digits, replace(default_recipe("digits"), epochs=1), seed=0, output=model)
    build(tool, monkeypatch, tmp_path / "digits", model)
    origin: dict[str, Any] = {"file": "model-T1.net", "sha256": "0", "checkpoint": "1"}
    save(replace(plain, recipe={"recovered_from": origin}), more)
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["", "add", str(tmp_path / "digits"), str(more)])
        assert tool.main() == 0
    card = tool.read_card(tmp_path / "digits")
    assert [item["file"] for item in card["further_checkpoints"]] == ["more.safetensors"]
    assert (tmp_path / "digits" / "more.safetensors").read_bytes() == more.read_bytes()
    page = (tmp_path / "digits" / "README.md").read_text()
    assert page == tool.card_page(card)
    assert re.search(r"- `more\.safetensors` \(.* MB.*\): .* Recovered from model-T1\.net\.\n", page)
    assert f"{sha256(more)}  more.safetensors\n" in page
    another = tmp_path / "another.safetensors"
    save(plain, another)
    monkeypatch.setattr(sys, "argv", ["", "add", str(tmp_path / "digits"), str(another), str(model)])
    assert tool.main() == InputError.exit_code
    assert "takes checkpoints of digits, up to 3,000,000 bytes, with other names than" in capsys.readouterr().err
    assert not (tmp_path / "digits" / another.name).exists()


def test_a_folder_is_extended(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By another T and another checkpoint; what it holds stays, but where the new one is better."""
    digits = load_data("digits")
    model, better = tmp_path / "model.safetensors", tmp_path / "better.safetensors"
    train("digits-cnn", digits, replace(default_recipe("digits"), epochs=1), seed=0, output=model)
    longer = train("digits-cnn", digits, replace(default_recipe("digits"), epochs=8), seed=1, output=better)
    folder = tmp_path / "digits"
    build(tool, monkeypatch, folder, model)
    before = tool.read_card(folder)
    save(replace(longer, recipe={"recovered_from": {"file": "model-T1.net", "sha256": "", "checkpoint": ""}}), better)
    monkeypatch.setattr(sys, "argv", ["", "add", str(folder), str(better)])
    assert tool.main() == 0

    def extend(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["", "extend", str(folder), *words, "--sim-images", "0"])
        assert tool.main() == 0
        card: dict[str, Any] = tool.read_card(folder)
        assert (folder / "README.md").read_text() == tool.card_page(card)
        return card

    monkeypatch.setattr(sys, "argv", ["", "extend", str(FOLDERS[0]), str(model), "-T", "4"])
    assert tool.main() == InputError.exit_code
    assert "holds networks of" in capsys.readouterr().err
    card = extend(str(model), "-T", "1,4")
    assert card["networks"][0] == before["networks"][0]
    assert [item["timesteps"] for item in card["networks"]] == [1, 4]
    assert [point["timesteps"] for point in card["best_single_file"]["test"]] == [1, 4]
    assert [item["file"] for item in card["further_checkpoints"]] == ["better.safetensors"]
    card = extend(str(folder / "better.safetensors"), "-T", "1")
    assert [item["checkpoint"] for item in card["networks"]] == ["better.safetensors", "model.safetensors"]
    assert [item["file"] for item in card["checkpoints"]] == ["model.safetensors", "better.safetensors"]
    assert "further_checkpoints" not in card
    assert card["cnn_test_accuracy"] == before["cnn_test_accuracy"]
    assert sha256(folder / "model-T1.net") == card["networks"][0]["sha256"] != before["networks"][0]["sha256"]
    assert "python tools/recover_checkpoint.py model-T1.net -o better.safetensors" in tool.card_page(card)
    recipe = {**asdict(fine_tuning_recipe("digits")), "start": {"seed": 1, "sha256": digest("", longer.state)}}
    state = {name: 1.01 * tensor for name, tensor in longer.state.items()}
    save(replace(longer, state=state, recipe=recipe), tmp_path / "tuned.safetensors")
    page = tool.card_page(extend(str(tmp_path / "tuned.safetensors"), "-T", "2"))
    assert "loihi-convert train --from better.safetensors --seed 1 -o tuned.safetensors" in page


def test_another_checkpoint_of_the_same_name_does_not_take_the_place_of_one(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Networks were made of it. Refused before anything is done."""
    digits, model, folder = load_data("digits"), tmp_path / "model.safetensors", tmp_path / "digits"
    plain = train("digits-cnn", digits, replace(default_recipe("digits"), epochs=1), seed=0, output=model)
    build(tool, monkeypatch, folder, model)
    held = {path.name: path.read_bytes() for path in folder.iterdir()}
    another = replace(plain, state={name: tensor / 3 for name, tensor in plain.state.items()})
    (tmp_path / "other").mkdir()
    save(another, tmp_path / "other" / "model.safetensors")
    monkeypatch.setattr(tool.pipeline, "export", None)
    words = ["", "extend", str(folder), str(tmp_path / "other" / "model.safetensors"), "-T", "4", "--work"]
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "work")])
    assert tool.main() == InputError.exit_code
    message = r"error: .*model\.safetensors: differs from the model\.safetensors in .*digits\. Give it another name\.\n"
    assert re.fullmatch(message, capsys.readouterr().err)
    assert not (tmp_path / "work").exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == held
    # The same file from elsewhere is the same.
    tool.refuse_others(folder, tool.read_card(folder), [model])


def test_files_of_a_folder_are_replaced_whole(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "new.net").write_bytes(b"new")
    (tmp_path / "model.net").write_bytes(b"old")
    with (tmp_path / "model.net").open("rb") as reader:
        assert tool._file(tmp_path / "new.net", tmp_path, "model.net")["bytes"] == 3
        assert reader.read() == b"old"
    assert (tmp_path / "model.net").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("build", "new", "none.safetensors"), 3, r"none\.safetensors: .*No such file"),
        (("build", "new", "model.safetensors", "-T", "a"), 2, "timesteps: found 'a'; must be whole numbers >= 1"),
        (
            ("build", "new", "model.safetensors", "--sim-images", "-5"),
            2,
            "--sim-images: found -5; must be at least 0",
        ),
        (("extend", "empty", "model.safetensors"), 3, "empty: no readable card.json \\(No such file"),
        (("add", "empty", "model.safetensors"), 3, "empty: no readable card.json \\(No such file"),
        (
            ("table", "damaged"),
            3,
            "damaged: no readable card.json \\(Expecting .*Create the folder with the verb build first",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(trained("digits", "digits-cnn", {}), Path("model.safetensors"))
    for folder in ("empty", "damaged"):
        Path(folder).mkdir()
    Path("damaged/card.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["", *words])
    assert tool.main() == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"error: .*{message}.*\n", err)
    assert not Path("new").exists()


def test_where_no_file_fits_for_all_t_a_card_names_none(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of T = 4 was too large for the folder and is gone; that of T = 1 is proven for T = 1, say."""
    digits, model, folder = load_data("digits"), tmp_path / "model.safetensors", tmp_path / "digits"
    train("digits-cnn", digits, replace(default_recipe("digits"), epochs=1), seed=0, output=model)
    monkeypatch.setattr(sys, "argv", ["", "build", str(folder), str(model), "-T", "1,4", "--sim-images", "0"])
    assert tool.main() == 0
    (folder / "model-T4.net").unlink()
    network = replace(netx.read(folder / "model-T1.net"), max_timesteps=1)
    netx.write(network, tmp_path / "digits-candidates" / "model-T1.net", overwrite=True)
    netx.write(network, folder / "model-T1.net", overwrite=True)
    monkeypatch.setattr(sys, "argv", ["", "extend", str(folder), str(model), "-T", "1", "--sim-images", "0"])
    assert tool.main() == 0
    card, page = tool.read_card(folder), (folder / "README.md").read_text()
    assert "best_single_file" not in card
    assert page == tool.card_page(card)
    assert "`ref`'s. No file here fits for all T.\n" in page
    (header,) = (line for line in page.splitlines() if line.startswith("| T "))
    assert [word.strip() for word in header.split("|")[3:5]] == ["to the CNN", "thresholds"]


def trained(data: str, architecture: str, recipe: dict[str, Any], **changes: Any) -> Checkpoint:
    state = {"weight": torch.ones(1)}
    return replace(Checkpoint(architecture, state, data, (1, 28, 28), ("a", "b"), 0, 0.5, 0.5, recipe), **changes)


def test_commands_say_what_differs_from_the_recipe(tool: ModuleType, tmp_path: Path) -> None:
    def command(one: Checkpoint) -> str:
        text: str = tool.train_command(one, "a.safetensors", [tmp_path / "cnn.safetensors"])
        return text.removeprefix("loihi-convert train ").removesuffix(" -o a.safetensors")

    papers = asdict(replace(paper_recipe("fashion-mnist"), epochs=20))
    assert command(trained("fashion-mnist", "fashion-mnist-cnn", papers, stored_as="float16")) == (
        "--data fashion-mnist --recipe paper --epochs 20 --store float16 --seed 0"
    )
    papers = asdict(paper_recipe("cifar10"))
    assert command(trained("cifar10", "vgg16", papers)) == "--data cifar10 --recipe paper --seed 0"
    ours = asdict(default_recipe("cifar10"))
    assert command(trained("cifar10", "vgg16", ours)) == "--data cifar10 --architecture vgg16 --seed 0"
    assert command(trained("cifar10", "vgg-small", {**ours, "dropout": 0.1})) == (
        "# a.safetensors: trained from Python, with the recipe in card.json"
    )
    cnn = trained("mnist", "mnist-cnn", {})
    save(cnn, tmp_path / "cnn.safetensors")
    few = {**asdict(replace(fine_tuning_recipe("mnist"), weight_bits=4)), "start": {"sha256": digest("", cnn.state)}}
    assert command(trained("mnist", "mnist-cnn", few, qcfs_levels=2)) == (
        "--from cnn.safetensors --qcfs 2 --weight-bits 4 --seed 0"
    )
    few["start"] = {"sha256": "0"}
    assert command(trained("mnist", "mnist-cnn", few)) == "# a.safetensors: fine-tuned from a CNN that is not here"


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


def test_a_mean_takes_the_same_t_in_each_folder(cards: ModuleType) -> None:
    def card(data: str, seed: int, *accuracies: tuple[int, float]) -> dict[str, Any]:
        networks = [{"timesteps": steps, "test": [{"accuracy": accuracy}]} for steps, accuracy in accuracies]
        return {"data": data, "seed": seed, "cnn_test_accuracy": 0.9, "networks": networks}

    first, second = card("digits", 0, (1, 0.8), (4, 0.9)), card("digits", 1, (1, 0.7), (4, 0.88))
    last = cards.mean_table([first, second]).splitlines()[-1]
    assert [word.strip() for word in last.split("|")[1:-1]] == ["mean difference", "", "-15.00", "-1.00"]
    for other, found in (
        (card("digits", 1, (1, 0.7), (8, 0.9)), "digits for T = 1, 8"),
        (card("digits", 1, (1, 0.7)), "digits for T = 1"),
        (card("mnist", 1, (1, 0.7), (4, 0.9)), "mnist for T = 1, 4"),
    ):
        message = f"^table: folder 2 holds networks of {found}, the first one of digits for T = 1, 4; all folders"
        with pytest.raises(InputError, match=message):
            cards.mean_table([first, other])


def test_the_papers_accuracies_are_its_best_at_each_t(tool: ModuleType) -> None:
    assert tool.papers_best("mnist", 4) == {"paper": {"accuracy": 99.14, "alpha": 0.4}}
    assert tool.papers_best("fashion-mnist", 512) == {"paper": {"accuracy": 92.11, "alpha": 1.0}}
    assert tool.papers_best("cifar10", 2048) == {"paper": {"accuracy": 92.47, "alpha": 1.0}}
    assert tool.papers_best("mnist", 1) == tool.papers_best("digits", 4) == tool.papers_cnn("digits") == {}
    assert tool.papers_cnn("cifar10") == {"paper_cnn_accuracy": 93.28}


def test_most_validation_images_win_and_the_first_among_equals(tool: ModuleType) -> None:
    names = {"plain1": (1, 90), "plain4": (4, 95), "q1": (1, 90), "q4": (4, 94), "q41": (4, 95)}
    files = [tool.LoadedFile(Path(name), Path(name), *numbers) for name, numbers in names.items()]
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
