"""The command line: exit codes, one sentence per error, only JSON on stdout, files in the reported places."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import typer
from PIL import Image
from support.command_line import Invoke, invoker
from support.external_files import NEURON, write_external
from support.training import train
from torch import nn

from loihi_convert import cli, netx
from loihi_convert.backends import result
from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions
from loihi_convert.data import DataSplits, load_data
from loihi_convert.errors import (
    BackendError,
    CheckpointError,
    DataError,
    InputError,
    LoihiConvertError,
    NetxError,
    PlatformError,
    RangeError,
    UnsupportedModelError,
    UsageError,
    VerificationError,
)
from loihi_convert.ground.files import sha256, write_atomically
from loihi_convert.ir.provenance import ModelRecord
from loihi_convert.pipeline import exporting, golden_check
from loihi_convert.pipeline.exporting import export_graded
from loihi_convert.pipeline.options import DataRequest
from loihi_convert.reading.source import Source
from loihi_convert.runs import run_folder


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Invoke:
    """Run ``loihi-convert`` with the given words, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return invoker(monkeypatch, capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "model.pt"
    train("digits-cnn", load_data("digits"), replace(default_recipe("digits"), epochs=4), seed=0, output=path)
    return path


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    """A file for T = 2; what only reads it shares it."""
    path = model.with_name("exported.net")
    percentile = BalanceOptions(method="percentile")
    exporting.export(model, path, (2,), load_data("digits").calibration_images(40), ConversionOptions(percentile))
    return path


LONG = "a" * 300


def test_every_kind_of_error_has_its_exit_code() -> None:
    codes = {UsageError: 2, InputError: 3, PlatformError: 4, VerificationError: 5}
    for error, code in codes.items():
        assert error.exit_code == code
        assert issubclass(error, LoihiConvertError)
    for error in (UnsupportedModelError, CheckpointError, NetxError, DataError, RangeError):
        assert issubclass(error, InputError)
    assert BackendError.exit_code == 4


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["export", "absent.pt"], 3, "error: absent.pt: "),
        (["export", "--frobnicate"], 2, "error: No such option: --frobnicate"),
        (["train", "--epochs", "two"], 2, "error: --epochs: must be a valid integer. `"),
        (["export"], 2, "Missing argument"),
        (["run"], 3, "error: this folder does not hold a .net file. Write one: `loihi-convert export model.pt`."),
        (["diagnose", "absent.pt", "absent.net"], 3, "error: absent.pt: no such file"),
        (["run", str(golden_check.folder() / golden_check.NETWORK), "--exit-tolerance", "101"], 2, "--exit-tolerance"),
        (["run", "absent.net"], 3, "error: absent.net: no such file"),
        (["export", "/dev/null"], 3, "error: /dev/null: is a pipe or a device; must be a file"),
        (
            ["run", str(golden_check.folder() / golden_check.NETWORK), "--overwrite"],
            2,
            "error: --overwrite: given; needs --dry-run",
        ),
        (
            ["run", str(golden_check.folder() / golden_check.NETWORK), "--data", "mnist"],
            3,
            "error: --data: found mnist, images of (1, 28, 28); must be images of (1, 8, 8), which the network takes.",
        ),
        (["report", "--figure", "a.pdf", "-o", "b.html"], 2, "error: --output: given with --figure; needs a page."),
        (["golden", "absent"], 3, "error: absent: not a golden folder, or damaged ("),
        (["golden", "--overwrite"], 2, "error: --overwrite: given; needs --dry-run"),
        (
            ["run", str(golden_check.folder() / golden_check.NETWORK), "--no-early-exit", "--exit-tolerance", "1"],
            2,
            "error: --exit-tolerance: given, but early exit is off",
        ),
        (["report", "--figure", "a.pdf", "--open"], 2, "error: --open: given with --figure; needs a page."),
        (["train", "--data", "minst"], 2, "error: --data: found 'minst'; must be one of digits, mnist"),
        (["train", "--architecture", "resnet"], 2, "error: --architecture: found 'resnet'; must be one of mnist-cnn"),
        (["train", "--epochs", "0"], 2, "error: --epochs: found 0; must be a whole number >= 1."),
        (["train", "--recipe", "fast"], 2, "error: --recipe: found 'fast'; must be one of best, paper."),
        (["train", "--recipe", "paper"], 2, "error: --data: the paper does not train on digits; must be one of"),
        (["unknown"], 2, "No such command"),
        *(
            (words, 3, "(File name too long)")
            for words in (
                ["train", "--data", LONG],
                ["train", "-o", f"{LONG}.pt"],
                ["export", f"{LONG}.pt"],
                ["run", f"{LONG}.net"],
                ["check", LONG],
                ["report", LONG],
                ["data", "mnist", "--data-root", LONG],
            )
        ),
    ],
)
def test_mistakes(invoke: Invoke, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    done = invoke(*words)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *(
            (
                ["-T", steps],
                f"--timesteps: found {steps!r}; must be whole numbers >= 1, without repeats, such as 1,2,4.",
            )
            for steps in ("0", "4,0", "four", "4,,8", "4,4", "")
        ),
        (["--thresholds", "layer"], "--thresholds: found 'layer'; must be one of channel, scalar."),
        (["--target", "loihi2", "--thresholds", "scalar"], "thresholds: found 'scalar'; must be channel"),
        (["--target", "loihi2", "--reset", "hard"], "target: found 'loihi2' for neurons with hard reset"),
        (["--weight-bits", 9], "--weight-bits: found 9; must be a whole number in 2..8."),
        (["--input", "rate"], "--input: found 'rate'; must be one of constant, poisson"),
        (["--input", "poisson", "--pixel-bits", 4], "--pixel-bits: found 4 for Poisson input"),
        (["--balance", "rmp", "--reset", "hard"], "--reset: found 'hard'; must be soft with --balance rmp."),
        (["--input", "poisson", "--seed", -1], "--seed: found -1; must be a whole number in 0..2,147,483,647"),
        (["--percentile", 50], "--percentile: found 50.0 with --balance auto; is only for --balance percentile."),
        (["--seed", 1], "--seed: given; is only for --input poisson."),
        (["--expect", 0.9], "--expect: found 0.9; must be in percent, in (1, 100]."),
        (["-o", "other.pt"], "--output: found other.pt, the name of a CNN; must end in .net, or in none."),
    ],
)
def test_export_refuses_options_before_balancing(
    invoke: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], message: str
) -> None:
    monkeypatch.setattr("loihi_convert.conversion.flow.choose_method", None)
    done = invoke("export", model, *(["-o", "refused.net"] if "-o" not in words else []), *words)
    assert (done.code, done.out, list(Path().iterdir())) == (2, "", [])
    assert message in done.err
    assert "the CNN classifies" not in done.err


def test_an_interrupted_training_is_not_overwritten(invoke: Invoke, tmp_path: Path) -> None:
    unfinished = tmp_path / "model.pt.resume.pt"
    unfinished.write_bytes(b"hours of work")
    done = invoke("train")
    assert done.code == 3
    assert "error: model.pt.resume.pt: is an interrupted training; nothing was changed. Continue with --res" in done.err
    assert unfinished.read_bytes() == b"hours of work"
    assert invoke("train", "--epochs", 1, "--overwrite").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-T", 0], 2, "error: --timesteps: found 0; must be a whole number in 1..1,048,576."),
        (["-o", "file"], 3, "error: file: cannot be created (File exists). Choose another place with --output."),
        (
            ["-o", "file/in"],
            3,
            "error: file/in: cannot be created (Not a directory). Choose another place with --output.",
        ),
        (["-o", "old"], 3, "error: old: exists already and is not empty; nothing was changed. Pass --overwrite, or "),
    ],
)
def test_demo_refuses_before_it_trains(
    invoke: Invoke, tmp_path: Path, words: list[object], code: int, message: str
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model.net").write_bytes(b"mine")
    done = invoke("demo", *words)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(message)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert names == {"file", "old", "old/model.net"}
    assert (tmp_path / "old" / "model.net").read_bytes() == b"mine"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("words", [["export", "conv.pt"], ["train", "--from", "conv.pt", "--epochs", 1]])
def test_a_checkpoint_is_not_replaced_by_what_is_made_from_it(
    invoke: Invoke, model: Path, tmp_path: Path, words: list[object], overwrite: list[str]
) -> None:
    copy = tmp_path / "conv.pt"
    copy.write_bytes(model.read_bytes())
    done = invoke(*words, "-o", "./conv.pt", *overwrite)
    assert (done.code, done.out) == (2, "")
    assert "error: conv.pt: is the input file and would be overwritten; nothing was changed." in done.err
    assert copy.read_bytes() == model.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["conv.pt"]


def test_export_refuses_what_does_not_fit(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    done = invoke("export", model, "--max-cores", 1, "-o", "a.net")
    assert (done.code, done.out) == (3, "")
    assert "error: the network needs 3 neurocores; must be at most 1. The largest layers: " in done.err
    # Before the CNN is tried on its images.
    assert "classifies" not in done.err
    assert list(tmp_path.iterdir()) == []
    for words in (("--chips", 0), ("--max-cores", 0), ("--chips", 1, "--max-cores", 128)):
        done = invoke("export", model, *words)
        assert done.code == 2
        assert f"error: {words[0] if len(words) == 2 else '--chips'}: found " in done.err
    (tmp_path / "old.net").touch()
    for output, found in (("old.net", "exists already"), ("folder/a.net", "cannot be written")):
        # Before the images are read.
        done = invoke("export", model, "--data", "missing.npz", "-o", output)
        assert (done.code, done.out) == (3, "")
        assert f"error: {output}: {found}" in done.err


def test_export_then_run(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    done = invoke("export", model, "-T", 16, "-o", "a.net")
    assert done.code == 0
    assert re.match(
        r"wrote a\.net: T = 16, agrees with the CNN on \d+\.\d\d % of \d+ calibration images\n"
        r"\d+,\d+ bytes, .+, verified on 32 images, every layer\n",
        done.out,
    )
    assert "next        loihi-convert run a.net\n" in done.out
    assert "weights\noff by" not in done.out
    done = invoke("export", model, "-T", 16, "-o", "a.net")
    assert (done.code, done.out) == (3, "")
    assert "error: a.net: exists already; nothing was changed." in done.err
    # `run` uses the newest file in the folder; its model is not in the same folder.
    Path("b.net").symlink_to("nowhere.net")
    done = invoke("run", "--images", 50, "-o", "here")
    assert done.code == 0
    assert re.match(r"a\.net on digits: \d\d\.\d\d % at T = 16\n50 test images, exact integers \(ref\): ", done.out)
    assert "model.pt is not in the folder of the file, or has changed; pass --model" in done.out
    assert "saved       here/\nnext        loihi-convert report here\n" in done.out
    assert len(done.out.splitlines()) <= 20
    folder = tmp_path / "here"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"accuracy.csv", "predictions.csv", "result.json", "manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"][0]["name"] == "a.net"
    assert manifest["classes"] == [str(digit) for digit in range(10)]
    assert manifest["lava_layout"] is None
    assert str(tmp_path) not in (folder / "manifest.json").read_text()
    contents = {path: path.read_bytes() for path in folder.iterdir()}
    done = invoke("run", "--images", 50, "-o", "here")
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "error: here: exists already and is not empty; nothing was changed. "
        "Choose a new or an empty folder with --output.\n"
    )
    assert {path: path.read_bytes() for path in folder.iterdir()} == contents


@pytest.fixture(params=["binary", "graded", "external"])
def file(request: pytest.FixtureRequest, invoke: Invoke) -> Path:
    """The golden network, one of graded spikes, or one of another tool, in the current folder."""
    if request.param == "binary":
        return Path(shutil.copy(golden_check.folder() / golden_check.NETWORK, Path("binary.net")))
    if request.param == "graded":
        cnn = Source.from_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10)), (1, 8, 8))
        return export_graded(cnn, "graded.net", load_data("digits").calibration.images[:8]).path
    layers = [
        {"type": "input", "shape": [1, 8, 8]},
        {"type": "flatten", "shape": [1, 1, 64]},
        {"type": "dense", "shape": [10], "weight": np.eye(10, 64, dtype=np.float32), "neuron": NEURON},
    ]
    return write_external(Path("external.net"), layers)


def test_the_manifest_has_the_digest_of_the_file_as_it_was_read(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    load, expected = DataRequest.load_for, sha256(file)

    def replacing(*arguments: Any, **options: Any) -> DataSplits:
        file.write_bytes(b"")
        return load(*arguments, **options)

    monkeypatch.setattr(DataRequest, "load_for", replacing)
    assert invoke("run", file, "--data", "digits", "--images", 3, "-o", "here").code == 0
    assert json.loads(Path("here/manifest.json").read_text())["files"] == [{"name": file.name, "sha256": expected}]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_results_that_cannot_be_written_are_printed(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, file: Path, words: tuple[str, ...]
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise InputError("cannot be written (No space left on device)", where=path)

    monkeypatch.setattr(run_folder, "write_atomically", full)
    done = invoke("run", file, "--data", "digits", "--images", 3, "-o", "kept", *words)
    assert done.code == 3
    assert json.loads(done.out) if words else done.out.startswith(f"{file.name} on digits: ")
    assert "kept" not in done.out
    assert done.err.endswith("error: kept/accuracy.csv: cannot be written (No space left on device).\n")
    assert not Path("kept").exists()


@pytest.mark.slow
def test_early_exit(invoke: Invoke, model: Path) -> None:
    invoke("export", model, "-T", "1,8", "-o", "x.net")
    done = invoke("run", "x-T8.net", "--images", 50, "-o", "here")
    assert done.code == 0
    assert re.search(r"early exit  \d\.\d\d of 8 steps on average: \d+\.\d\d %, \d+ % fewer SynOps", done.out)
    done = invoke("run", "x-T8.net", "--images", 50, "--details")
    assert "0.1 points of accuracy on 200 validation images" in " ".join(done.out.split())
    rows = Path("here/early_exit.csv").read_text().splitlines()
    assert sum(",True," in row for row in rows) == 1
    # One row for the file that has more than one step.
    done = invoke("run", "x-T1.net", "x-T8.net", "--images", 50, "--exit-tolerance", 100, "--json")
    result = json.loads(done.out)
    assert result["x-T1"]["early_exit"] is None
    assert result["x-T8"]["early_exit"]["choice"]["margin"] == 0
    assert result["x-T8"]["early_exit"]["exit_share"] == [1.0, *([0.0] * 7)]
    for words, is_said in (((), False), (("--exit-tolerance", 1), True), (("--early-exit",), True)):
        done = invoke("run", "x-T1.net", "--images", 50, *words)
        assert ("early exit  does not apply to one time step" in done.out) == is_said
    done = invoke("run", "x-T8.net", "--images", 50, "--no-early-exit")
    assert done.code == 0
    assert "steps on average" not in done.out + done.err
    done = invoke("run", "x-T8.net", "--exit-tolerance", -1, "-o", "there")
    assert done.code == 2
    assert "error: --exit-tolerance: found -1.0" in done.err
    assert not Path("there").exists()


@pytest.mark.slow
def test_early_exit_with_own_images_needs_others(invoke: Invoke, model: Path, own_images: Path) -> None:
    digits = load_data("digits")
    np.savez("more.npz", images=digits.test.images[:8], calibration=digits.calibration.images[:20])
    invoke("export", model, "-T", 4, "-o", "own.net", "--data", "more.npz")
    done = invoke("run", "own.net", "--data", "more.npz", "--details")
    assert (done.code, "not evaluated" in done.out) == (0, False)
    of_calibration = "0.1 % of the classes after T on 20 calibration images"
    assert of_calibration in " ".join(done.out.split())
    done = invoke("run", "own.net", "--data", "own.npz")
    assert done.code == 0
    assert "early exit  not evaluated: it needs other images as `calibration` in an .npz file\n" in done.out


def test_json_stands_alone_on_stdout(invoke: Invoke, model: Path) -> None:
    exported = json.loads(invoke("export", model, "-T", "4,8", "-o", "b.net", "--json").out)
    assert [item["file"] for item in exported["files"]] == ["b-T4.net", "b-T8.net"]
    assert exported["files"][0]["provenance"]["balance"]["timesteps"] == 4
    done = invoke("run", "b-T4.net", "b-T8.net", "--images", 30, "--model", model, "--json")
    result = json.loads(done.out)
    assert set(result) == {"b-T4", "b-T8"}
    assert result["b-T8"]["image_count"] == 30
    assert result["b-T8"]["points"][-1]["accuracy"] is not None
    assert result["b-T8"]["cnn_accuracy"] is not None


@pytest.mark.slow
def test_target_loihi2(invoke: Invoke, model: Path) -> None:
    done = invoke("export", model, "-T", 8, "-o", "chip.net", "--target", "loihi2", "--balance", "percentile")
    assert done.code == 0
    assert "target loihi2, pixels of" in done.out
    assert "; u cannot wrap in " in done.out or "; u did not wrap in " in done.out
    for words in ([], ["--leak"], ["--neuron", "stock"]):
        done = invoke("run", "chip.net", "--images", 50, "--no-early-exit", "--model", model, "--json", *words)
        result = json.loads(done.out)["chip"]
        assert result["wrapped_images"] == 0
        # The CNN is trained only briefly, so its accuracy depends on the processor.
        assert result["points"][-1]["agreement_with_cnn"] > 0.9
        assert "wrapped" not in done.err
    done = invoke("run", "chip.net", "--images", 50, "--no-early-exit", "--neuron", "own", "--json")
    assert json.loads(done.out)["chip"]["wrapped_images"] is None
    assert "stock" not in done.err


def test_what_target_loihi2_refuses(invoke: Invoke, model: Path) -> None:
    assert invoke("export", model, "-T", 4, "-o", "plain.net", "--balance", "percentile").code == 0
    for words, message in [
        (["run", "plain.net", "--neuron", "stock"], "error: the file was exported for target lava"),
        (
            ["run", "plain.net", "--backend", "loihi2", "--dry-run"],
            "or run it on --backend ref or sim without --neuron stock.",
        ),
        (["run", "plain.net", "--leak"], "leak: this run uses soft-reset neurons"),
        (["export", model, "--target", "chip"], "--target: found 'chip'; must be one of lava, loihi2."),
        (["export", model, "-o", "x.net", "--target", "loihi2", "--reset", "hard"], "--target: found 'loihi2'"),
    ]:
        done = invoke(*words)
        assert (done.code, done.out) == (2, "")
        assert message in done.err


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """Four digits of each of the classes 3 and 7, as a folder, and the same ones flat and as an .npz file."""
    test = load_data("digits").test
    chosen = np.concatenate([np.flatnonzero(test.known_labels == digit)[:4] for digit in (3, 7)])
    for number, index in enumerate(chosen):
        for folder in (f"folders/{test.known_labels[index]}", "flat"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(test.images[index, 0]).save(tmp_path / folder / f"{number}.png")
    np.savez(tmp_path / "own.npz", images=test.images[chosen, 0], labels=test.known_labels[chosen])
    np.savez(tmp_path / "wide.npz", images=np.zeros((2, 8, 10), np.uint8))
    return tmp_path


@pytest.mark.slow
def test_own_images_are_run_with_and_without_labels(invoke: Invoke, model: Path, own_images: Path) -> None:
    assert invoke("export", model, "-T", 8, "-o", "own.net", "--data", "own.npz").code == 0
    results = {}
    for data in ("./folders", "./flat", "own.npz"):
        done = invoke("run", "own.net", "--model", model, "--data", data, "-o", f"runs-{Path(data).stem}", "--json")
        assert done.code == 0, done.err
        results[data] = json.loads(done.out)["own"]
        assert results[data]["image_count"] == 8
    assert results["./folders"]["points"][-1]["correct_count"] == results["own.npz"]["points"][-1]["correct_count"]
    # Without labels there is no accuracy, but the same agreement with the CNN.
    assert results["./flat"]["points"][-1]["accuracy"] is None
    assert results["./flat"]["cnn_accuracy"] is None
    agreements = {result["points"][-1]["agreement_with_cnn"] for result in results.values()}
    assert len(agreements) == 1
    assert None not in agreements
    predictions = {name: Path(f"runs-{name}/predictions.csv") for name in ("folders", "flat")}
    header, *rows = predictions["folders"].read_text().splitlines()
    # The folders are found among the network's ten classes.
    assert header.startswith("file,image,path,timesteps,class,class_name,label,")
    last = [row.split(",") for row in rows if row.split(",")[3] == "8"]
    assert [row[6] for row in last] == ["3", "7"] * 4
    assert [row[2].split("/")[0] for row in last] == ["3", "7"] * 4
    assert predictions["flat"].read_text().startswith("file,image,path,timesteps,class,class_name,potential_0")
    # The tables also work without accuracy.
    assert invoke("run", "own.net", "--data", "flat/").code == 0


@pytest.mark.slow
def test_own_images_calibrate(invoke: Invoke, model: Path, own_images: Path) -> None:
    done = invoke("export", model, "-T", 4, "-o", "c.net", "--data", "own.npz", "--json")
    assert done.code == 0, done.err
    assert netx.read(Path("c.net")).provenance["balance"]["calibration_images"] == 8
    assert invoke("export", model, "-T", 4, "-o", "a.net", "--data", "./flat", "--calibration", "all").code == 0
    assert invoke("export", model, "-T", 4, "-o", "b.net", "--data", "./flat").code == 0
    assert netx.read(Path("a.net")).provenance["balance"] == netx.read(Path("b.net")).provenance["balance"]


@pytest.mark.slow
def test_class_folders_of_other_names_are_mapped_by_the_user(invoke: Invoke, model: Path, own_images: Path) -> None:
    invoke("export", model, "-T", 2, "-o", "m.net")
    named = invoke("run", "m.net", "--data", "./folders", "--json", "-o", "named")
    Path("folders").rename("words")
    for number, word in ((3, "three"), (7, "seven")):
        Path(f"words/{number}").rename(f"words/{word}")
    refused = invoke("run", "m.net", "--data", "./words")
    assert (refused.code, refused.out) == (3, "")
    assert "the folder seven is not a class of the network" in refused.err
    mapped = invoke("run", "m.net", "--data", "./words", "--class-map", "three=3,seven=7", "--json", "-o", "mapped")
    assert "seven -> 7, three -> 3" in mapped.err
    assert json.loads(mapped.out)["m"]["points"] == json.loads(named.out)["m"]["points"]
    for text in ("three", "three=3,three=7", "three=", "=3", "three=3,,seven=7"):
        done = invoke("run", "m.net", "--data", "./words", "--class-map", text)
        assert done.code == 2
        assert repr(text) in done.err


def test_own_images_that_do_not_fit(invoke: Invoke, model: Path, own_images: Path) -> None:
    invoke("export", model, "-T", 2, "-o", "e.net", "--data", "own.npz")
    for words in (("run", "e.net"), ("export", model, "-o", "f.net")):
        done = invoke(*words, "--data", "wide.npz")
        assert (done.code, done.out) == (3, "")
        assert "error: wide.npz: images: found (2, 8, 10); must be (N, 1, 8, 8)." in done.err
    assert not Path("f.net").exists()
    done = invoke("run", "e.net", "--data", "absent/folder")
    assert done.code == 3
    assert "error: absent/folder: no such file or folder; must be a folder of images or an .npz file." in done.err
    done = invoke("train", "--data", "own.npz")
    assert done.code == 2
    assert "error: --architecture: not given; must be given for your own images" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "reset", "poisson_seed"),
    [
        (["--balance", "spike-norm"], "hard", 0),
        (["--balance", "spike-norm", "--reset", "soft", "--input", "constant"], "soft", None),
        (["--balance", "rmp", "--seed", 5], "soft", 5),
        (["--balance", "act-norm"], "soft", None),
        (["--balance", "act-norm-channelwise", "--input", "poisson"], "soft", 0),
    ],
)
def test_methods_bring_their_neurons_and_input(
    invoke: Invoke, model: Path, words: list[object], reset: str, poisson_seed: int | None
) -> None:
    done = invoke("export", model, "-T", 4, "-o", "other.net", *words)
    assert done.code == 0, done.err
    network = netx.read(Path("other.net"))
    assert (network.reset, network.poisson_seed) == (reset, poisson_seed)
    assert ("pixels enter as Poisson spikes" in done.out + done.err) == (poisson_seed is not None)
    assert ("unmodified lava-dl agrees with `ref`" in " ".join(done.out.split())) == (reset == "soft")


@pytest.mark.slow
def test_hard_reset_with_one_threshold_a_layer(invoke: Invoke, model: Path) -> None:
    """The settings that stock netx needs on hardware; the run reports the estimated energy and time per inference."""
    done = invoke("export", model, "-T", 4, "-o", "other.net", "--reset", "hard", "--thresholds", "scalar", "--json")
    assert done.code == 0, done.err
    (file,) = json.loads(done.out)["files"]
    assert all(low == high for low, high in (layer["thresholds"] for layer in file["account"]["layers"][:-1]))
    assert file["provenance"]["quantize"]["thresholds"] == "scalar"
    assert not any("lava-dl" in note for note in file["notes"])
    assert file["lava_dl"] == {"image_count": 200, "agreement": 1.0, "accuracy": None, "ref_accuracy": None}
    network = netx.read(Path("other.net"))
    assert (network.reset, network.thresholds) == ("hard", "scalar")
    done = invoke("run", "other.net", "--images", 20, "--no-early-exit", "--json")
    energy = json.loads(done.out)["other"]["energy"]
    assert [one["timesteps"] for one in energy["estimates"]] == [1, 2, 4]
    low, high = energy["estimates"][-1]["loihi1_joules"]
    assert 0 < low < high
    done = invoke("run", "other.net", "--images", 20, "--no-early-exit", "--details")
    assert "energy and time of an inference, estimated" in done.out
    assert "No energy per operation of Loihi 2 is public." in " ".join(done.out.split())


@pytest.mark.lava
def test_poisson_input_on_lava(invoke: Invoke, model: Path) -> None:
    """Two blocks of images, the same spikes on both sides, every layer."""
    assert (
        invoke("export", model, "-o", "other.net", "-T", 6, "--input", "poisson", "--balance", "percentile").code == 0
    )
    for words in ([], ["--lava-layout", "layers"]):
        folder = f"run{len(words)}"
        given = ("--backend", "sim", "--images", 40, "--trace", "--no-early-exit", "-o", folder, *words)
        done = invoke("run", "other.net", *given)
        assert done.code == 0, done.err
        manifest = json.loads(Path(folder, "manifest.json").read_text())
        assert (manifest["equal_to_ref"], manifest["seed"]) == ({"other": 40}, 0)


@pytest.mark.slow
def test_several_files_are_one_point_each(invoke: Invoke, model: Path) -> None:
    invoke("export", model, "-T", "4,8", "-o", "b.net")
    done = invoke("run", "b-T4.net", "b-T8.net", "--images", 30)
    assert done.code == 0
    assert re.match(r"2 files on digits, best: b-T[48]\.net, ", done.out)
    assert re.search(r"\n  b-T4\.net  4  +\d", done.out)
    done = invoke("run", "b-T4.net", "b-T8.net", "--images", 30, "--details")
    assert "one file per T" in done.out
    assert "anytime" not in done.out


@pytest.mark.slow
def test_files_of_different_data_are_not_run_on_those_of_the_first(
    invoke: Invoke, model: Path, own_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("export", model, "-T", 2, "-o", "a.net", "--balance", "percentile")
    network = netx.read(Path("a.net"))
    made = network.provenance["model"]
    changes = {"b": {"data": "mnist"}, "c": {"classes": made["classes"][::-1]}, "d": {"data_fingerprint": "one"}}
    changes["e"] = {"data_fingerprint": "two"}
    for name, change in changes.items():
        netx.write(
            replace(network, provenance={**network.provenance, "model": {**made, **change}}), Path(f"{name}.net")
        )
    for words, message in (
        (["b.net"], "b.net: the data of its CNN differ from those of a.net ('mnist', 'digits'). Run them one by one"),
        (["c.net"], "c.net: the classes of its CNN differ from those of a.net. Run them one by one."),
        (
            ["c.net", "--data", "./folders"],
            "c.net: the classes of its CNN differ from those of a.net. Run them one by one.",
        ),
    ):
        done = invoke("run", "a.net", *words)
        assert (done.code, done.out) == (2, "")
        assert message in done.err
    # The first does not record its images.
    done = invoke("run", "a.net", "d.net", "e.net")
    assert (done.code, done.out) == (2, "")
    assert "e.net: the images of its CNN differ from those of d.net. Run them one by one, or pass --data." in done.err
    assert not Path("runs").exists()
    assert invoke("run", "a.net", "b.net", "--data", "./folders", "-o", "own").code == 0
    # A data set defines its own classes.
    assert invoke("run", "a.net", "b.net", "c.net", "--data", "digits", "--images", 5, "-o", "both").code == 0


@pytest.mark.slow
def test_what_a_file_says_does_not_reach_the_terminal_as_commands(
    invoke: Invoke, model: Path, own_images: Path
) -> None:
    invoke("export", model, "-T", 2, "-o", "a.net", "--balance", "percentile")
    network = netx.read(Path("a.net"))
    made = network.provenance["model"]
    evil = "\x1b[2J\x9b31m"
    for change, words in (
        ({"arch": evil}, ["--data", "digits"]),
        ({"file": evil}, ["--data", "digits"]),
        ({"data": f"{evil}/x"}, []),
        ({"classes": [evil, *made["classes"][1:5]]}, ["--data", "./folders"]),
    ):
        netx.write(
            replace(network, provenance={**network.provenance, "model": {**made, **change}}),
            Path("b.net"),
            overwrite=True,
        )
        done = invoke("run", "b.net", "--images", 5, *words)
        assert r"\x1b[2J\x9b31m" in done.out + done.err
        assert not {"\x1b", "\x9b"} & set(done.err + done.out)


def test_a_run_beyond_the_proof_is_refused(invoke: Invoke, exported: Path) -> None:
    proven = netx.read(exported).max_timesteps
    done = invoke("run", exported, "-T", proven + 1)
    assert done.code == 3
    assert f"timesteps: found {proven + 1}; must be in 1..{proven:,}, for which" in done.err
    # Options that export would refuse are not recommended.
    done = invoke("run", exported, "-T", 99_999_999)
    assert done.code == 2
    assert "timesteps: found 99999999; must be in 1..1,048,576." in done.err


@pytest.mark.slow
def test_a_trace_that_would_fill_the_memory_is_refused(
    invoke: Invoke, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "MAX_TRACE", 2**22)
    done = invoke("run", exported, "--trace")
    # 5 bytes for each of 400 images x 2 steps x (1024 + 512 + 10) neurons: 6,184,000 bytes.
    assert done.code == 2
    assert "trace: the result of 400 images x 2 steps takes 5.9 MiB; must be at most 4 MiB." in done.err


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 401, -1])
def test_images_that_do_not_exist(invoke: Invoke, exported: Path, count: int) -> None:
    done = invoke("run", exported, "--images", count)
    assert done.code == 2
    assert f"error: --images: found {count}; must be 1..400, the number of test images of digits." in done.err


def test_diagnose_says_where_the_accuracy_went(invoke: Invoke, model: Path) -> None:
    invoke("export", model, "-T", 1, "--balance", "percentile", "--initial-potential", "zero", "-o", "g.net")
    done = invoke("diagnose", model, "g.net")
    assert done.code == 0
    assert "looking at the first 200 of 200 validation images of digits; test images are kept" in done.err
    assert "Main cause: initial potential (" in done.out
    assert "Export with --initial-potential half" in done.out
    result = json.loads(invoke("diagnose", model, "g.net", "--images", 50, "--json").out)
    assert (result["file"], result["image_count"], result["timesteps"]) == ("g.net", 50, 1)
    assert result["main_cause"] == "initial_potential"
    assert [stage["cause"] for stage in result["stages"]][:4] == [None, "clipping", "levels", "initial_potential"]
    assert result["verdict"].startswith("The file loses ")
    assert (result["notes"], result["equal_on_lava"]) == ([], 0)


@pytest.mark.slow
def test_diagnose_tells_of_another_cnn(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    invoke("export", model, "-T", 4, "-o", "h.net")
    train("digits-cnn", load_data("digits"), replace(default_recipe("digits"), epochs=1), seed=1, output=Path("b.pt"))
    done = invoke("diagnose", "b.pt", "h.net")
    assert done.code == 0
    assert done.out.startswith("h.net was not made from b.pt as it is now: differences between the two CNNs are")
    done = invoke("run", "h.net", "--model", "b.pt", "--images", 50)
    assert "h.net was not made from b.pt as it is now" in done.out


@pytest.mark.slow
def test_diagnose_on_own_images(invoke: Invoke, model: Path, own_images: Path) -> None:
    invoke("export", model, "-T", 4, "-o", "own.net")
    done = invoke("diagnose", model, "own.net", "--data", "./flat")
    assert done.code == 0
    assert "looking at the first 8 of 8 own images of flat\n" in done.err
    assert "same as" in done.out
    assert "accuracy" not in done.out
    done = invoke("diagnose", model, "own.net", "--data", "wide.npz")
    assert (done.code, done.out) == (3, "")
    assert "wide.npz: images: found (2, 8, 10); must be (N, 1, 8, 8)." in done.err


def test_diagnose_warns_of_images_that_the_cnn_may_have_been_trained_on(invoke: Invoke, own_images: Path) -> None:
    """By whatever name the images of `export` are given."""
    Path("code_of_a_user.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), "
        "nn.Linear(8, 10))\n"
    )
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    torch.save(cnn.state_dict(), "user.pt")
    arch = ("--arch", "code_of_a_user:make")
    assert invoke("export", "user.pt", "-T", 2, "-o", "user.net", "--data", "own.npz", *arch).code == 0
    shutil.copy("own.npz", "copy.npz")
    with np.load("own.npz") as own:
        np.savez("others.npz", images=own["images"][:5], labels=own["labels"][:5])
    for data, is_warned in (("own.npz", True), ("copy.npz", True), ("others.npz", False)):
        done = invoke("diagnose", "user.pt", "user.net", "--data", data, *arch)
        assert done.code == 0, done.err
        assert ("did not train this CNN" in done.out) == is_warned
    os.mkfifo("pipe")
    done = invoke("diagnose", "user.pt", "pipe")
    assert done.code == 3
    assert "error: pipe: is a pipe or a device; must be a file." in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--images", 201], 2, "error: --images: found 201; must be 1..200, the number of validation images of"),
        (["--images", 0], 2, "error: --images: found 0; must be 1..200"),
        (["--images", 10, "--sim", 11], 2, "error: --sim: found 11; must be 0..10"),
        (["-T", 0], 2, "timesteps: found 0; must be in 1..1,048,576."),
        (["-T", 10**6], 3, "timesteps: found 1000000; must be in 1.."),
    ],
)
def test_what_diagnose_refuses(
    invoke: Invoke, model: Path, exported: Path, words: list[object], code: int, message: str
) -> None:
    done = invoke("diagnose", model, exported, *words)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


@pytest.mark.lava
def test_diagnose_compares_with_lava(invoke: Invoke, model: Path, exported: Path) -> None:
    done = invoke("diagnose", model, exported, "--images", 20, "--sim", 3, "--json")
    assert "Lava: every layer of the first 3 images equal to ref at every step, error 0" in done.err
    assert json.loads(done.out)["equal_on_lava"] == 3


def test_version_and_help(invoke: Invoke) -> None:
    assert invoke("--version").out.strip().count(".") == 2
    assert "Start with: loihi-convert demo" in invoke("--help").out


@pytest.mark.lava
def test_doctor_runs_lava(invoke: Invoke) -> None:
    checks = {check["name"]: check for check in json.loads(invoke("doctor", "--lava", "--json").out)["checks"]}
    assert checks["Lava (sim)"]["state"] == "ok"
    assert "equal to ref" in checks["Lava (sim)"]["found"]
    assert checks["Python"]["state"] == "ok"


def test_doctor_looks_for_the_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `lava.utils.loihi.is_installed` looks for; `lava` is a namespace of several distributions."""
    from loihi_convert.checks import environment

    def state() -> str:
        return next(check.state for check in environment.examine() if check.name == "Loihi 2")

    assert state() == "absent"
    (tmp_path / "lava/utils").mkdir(parents=True)
    (tmp_path / "lava/utils/loihi2_profiler.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert state() == "ok"


def test_doctor_lists_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loihi_convert.checks.environment import examine

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert examine()[-1].found == "none"
    Path("temporary/loihi-0a1b").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: None)
        write_atomically(Path("a.net"), b"")
    (unfinished,) = Path().glob(".*")
    found = f"2 unfinished: {unfinished}, {tmp_path}/temporary/loihi-0a1b"
    assert (examine()[-1].found, examine()[-1].advice) == (found, "Delete what no running command uses.")


def test_doctor_without_lava(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from loihi_convert.checks import environment

    real, absent = environment.installed_version, {"lava-nc", "lava-dl", "torch", "onnx", "dask-jobqueue"}
    monkeypatch.setattr(environment, "installed_version", lambda name: None if name in absent else real(name))
    done = invoke("doctor")
    assert done.code == 4
    assert "absent  Lava (sim): not installed; `--backend sim` and `diagnose --sim`" in done.out
    assert "pip install --no-deps --ignore-requires-python lava-nc==0.10.0" in done.out
    assert "BROKEN  torch: not installed" in done.out
    assert 'absent  onnx: not installed; ONNX files are not read\n        Run: pip install "onnx' in done.out
    assert "absent  dask-jobqueue: not installed; `--slurm` does not work" in done.out
    assert "error: torch: does not work" in done.err


@pytest.mark.slow
def test_a_signal_during_training(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loihi_convert", "train", "--epochs", "2000", "-o", "model.pt"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    resume = tmp_path / "model.pt.resume.pt"
    deadline = time.monotonic() + 60
    while not resume.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    try:
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    # The state of the training is kept, and no partial file remains.
    assert [path.name for path in tmp_path.iterdir()] == [resume.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "model.pt", "--balance", "ngulee"], "--balance: found 'ngulee'; must be one of auto, ngu-lee,"),
        (["run", "model.net", "--backend", "simm"], "must be one of ref, sim, loihi2. Did you mean sim?"),
        (["check", "model.net", "--target", "loihi"], "--target: found 'loihi'; must be one of lava, loihi2. Did"),
        (["train", "--data", "minst"], ".npz file. Did you mean mnist?"),
        (["golden", "--loihi-gen", "N3"], "--loihi-gen: found 'N3'; must be one of N3B2,"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_imported(words: list[str], message: str, tmp_path: Path) -> None:
    program = (
        "import sys; from loihi_convert import __main__\n"
        f"sys.argv = ['loihi-convert', *{words!r}]\n"
        "try: __main__.main()\n"
        "finally: print(*({'torch', 'numpy', 'h5py', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_help_shows_choices_and_panels(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = invoke("run", "-h").out
    assert "[ref|sim|loihi2]" in page
    titles = ["Basics", "Early exit", "Data", "Your own CNN", "Lava", "Loihi 2 board"]
    assert sorted(titles, key=lambda title: page.index(f"─ {title} ─")) == titles
    page = invoke("export", "--help").out
    titles = ["Your own CNN", "Data", "Basics", "Balancing", "Neurons and input"]
    assert sorted(titles, key=lambda title: page.index(f"─ {title} ─")) == titles
    assert "--no-bias-correction" in page


VERBS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_no_help_page_names_a_type_of_python(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """A value is named by its meaning, such as FILE, BITS or N, not as ``<int>``, ``INTEGER`` or ``list[Path]``."""
    monkeypatch.setenv("COLUMNS", "200")
    page = invoke(*verb.split(), "--help").out
    assert re.findall(r"<[^>]*>|\b(?:INTEGER|FLOAT|TEXT|list\[\w+\])", page) == []


def test_choices_are_completed_by_the_shell(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("loihi-convert")]
    words = {"COMP_WORDS": "loihi-convert run --backend l", "COMP_CWORD": "3"}
    environment = {**os.environ, **words, "_LOIHI_CONVERT_COMPLETE": "complete_bash"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout.split() == ["loihi2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "model.pt"], "model.pt: is a checkpoint. Export it first: `loihi-convert export model.pt`."),
        (["inspect", "model.pth"], "model.pth: is a checkpoint. Export it first"),
        (["run", "folder"], "folder: is a folder; must be a .net file."),
        (["run", "empty"], "empty: is a folder; must be a .net file."),
        (["export", "model.net"], "model.net: is exported already. Run it: `loihi-convert run model.net`."),
        (["export", "empty"], "empty: is a folder; must be a checkpoint"),
        (["check", "empty"], "empty: is a folder; must be a .net file"),
        (["run", "model.safetensors"], "model.safetensors: is a checkpoint."),
        (
            ["run", "net.onnx"],
            "net.onnx: is an ONNX file. Export it first: `loihi-convert export net.onnx --data IMAGES`.",
        ),
        (["train", "--from", "model.net"], "model.net: is exported already."),
    ],
)
def test_the_file_of_another_stage_is_named_as_such(
    invoke: Invoke, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder" / "a.net").touch()
    for name in ("model.pt", "model.pth", "x.bin"):
        torch.save({"weight": torch.ones(2)}, name)
    safetensors.torch.save_file({"weight": torch.ones(2)}, "model.safetensors")
    Path("net.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    Path("model.net").write_bytes(b"\x89HDF\r\n\x1a\n")
    done = invoke(*words)
    assert (done.code, done.out) == (3, "")
    assert f"error: {message}" in done.err or message in done.err


def test_files_in_the_wrong_order(invoke: Invoke) -> None:
    Path("a.net").write_bytes(b"\x89HDF\r\n\x1a\n")
    torch.save({"weight": torch.ones(2)}, "b.pt")
    done = invoke("diagnose", "a.net", "b.pt")
    assert done.code == 2
    assert "the files are in the wrong order. Run `loihi-convert diagnose b.pt a.net`." in done.err


def test_train_continues_from_a_users_own_checkpoint_only_with_its_code(invoke: Invoke) -> None:
    torch.save({"weight": torch.ones(2, 2)}, "own.pt")
    done = invoke("train", "--from", "own.pt", "-o", "new.pt")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: own.pt: was not written by `loihi-convert train`; needs --arch, ")


def test_errors_of_the_library_are_shown_with_the_flags_of_the_verb(invoke: Invoke, model: Path) -> None:
    done = invoke("export", model, "--balance", "rmp", "--reset", "hard", "-o", "x.net")
    assert done.code == 2
    assert done.err.startswith("error: --reset")
    assert "`" not in done.err
    invoke("export", model, "-T", 2, "--balance", "percentile", "-o", "plain.net")
    done = invoke("run", "plain.net", "--neuron", "stock")
    assert done.code == 2
    assert "run it on --backend ref or sim without --neuron stock." in done.err
    assert "--target loihi2" in done.err or "`target='loihi2'`" in done.err


def test_a_run_reports_every_t_that_is_asked_for(invoke: Invoke, model: Path) -> None:
    invoke("export", model, "-T", "4,8", "--balance", "percentile", "-o", "t.net")
    done = invoke("run", "t-T4.net", "t-T8.net", "-T", "3,6", "--images", 20, "--no-early-exit", "--json")
    assert done.code == 0
    for figures in json.loads(done.out).values():
        assert [point["timesteps"] for point in figures["points"]] == [1, 2, 3, 4, 6]


def test_unlabelled_images_are_said_to_be_so(invoke: Invoke, model: Path, own_images: Path) -> None:
    invoke("export", model, "-T", 4, "--balance", "percentile", "-o", "own.net")
    done = invoke("run", "own.net", "--model", model, "--data", "./flat")
    assert "own.net on flat: same class as the CNN on " in done.out
    assert "accuracy is unknown; only the agreement with the CNN is known" in done.out
    assert "--model" not in done.out
    done = invoke("run", "own.net", "--data", "./flat")
    assert "accuracy unknown (no labels, no CNN)" in done.out
    assert "is not in the folder of the file, or has changed; pass --model" in done.out


def test_images_of_one_class_say_little(invoke: Invoke, model: Path) -> None:
    images = load_data("digits").test
    zeros = images.images[images.known_labels == 0][:5]
    np.savez("zeros.npz", images=zeros)
    invoke("export", model, "-T", 8, "--balance", "percentile", "-o", "own.net")
    done = invoke("run", "own.net", "--model", model, "--data", "zeros.npz")
    assert "The CNN gives all 5 images the same class, 0: the agreement with the CNN means little" in done.out
    assert "every image gets class" not in done.out
    done = invoke("run", "own.net", "--model", model, "--images", 50)
    assert "every image gets class" not in done.out


def test_the_float_snn_is_run_on_request(invoke: Invoke, model: Path) -> None:
    invoke("export", model, "-T", 4, "--balance", "percentile", "-o", "own.net")
    words = ("run", "own.net", "--model", model, "--images", 20, "--no-early-exit")
    (known,) = json.loads(invoke(*words, "--float", "--json").out).values()
    (without,) = json.loads(invoke(*words, "--json").out).values()
    assert known["points"][-1]["float_accuracy"] is not None
    assert without["points"][-1]["float_accuracy"] is None
    assert without["cnn_accuracy"] == known["cnn_accuracy"]
    done = invoke("run", "own.net", "--images", 20, "--no-early-exit", "--float")
    assert done.code == 2
    assert done.err.startswith("error: --float: ")


@pytest.mark.lava
def test_demo_goes_from_training_to_figures(invoke: Invoke) -> None:
    done = invoke("demo", "-T", 4, "--json", "-o", "d")
    assert done.code == 0, done.err
    (figures,) = json.loads(done.out).values()
    assert figures["points"][-1]["timesteps"] == 4
    assert figures["points"][-1]["accuracy"] > 0.9
    assert "Lava equals ref in every output potential and spike count, all 400 images at every step" in done.err
    assert {path.name for path in Path("d").iterdir()} == {"model.pt", "model.net", "runs", "accuracy.png"}
    (folder,) = Path("d/runs").iterdir()
    assert re.fullmatch(r"model-sim-\d{8}T\d{6}Z", folder.name)
    assert (folder / "manifest.json").exists()


def test_golden_replaces_only_a_report(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_text("mine")
    done = invoke("golden", "-o", "mine.pt")
    assert (done.code, done.out) == (3, "")
    assert "error: mine.pt: exists and is not a golden report; nothing was changed." in done.err
    assert (tmp_path / "mine.pt").read_text() == "mine"
    for _ in range(2):
        assert invoke("golden").code == 0


def test_a_report_whose_name_is_too_long_is_refused(invoke: Invoke) -> None:
    done = invoke("golden", "-o", f"{'a' * 300}.json")
    assert (done.code, "File name too long" in done.err) == (3, True)


def test_a_record_of_no_more_than_a_path_says_nothing_of_the_images(
    own_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = ModelRecord(data=str(own_images / "own.npz"))
    DataRequest(None, None).load_for(Path("n.net"), recorded, (1, 8, 8))
    assert "was exported with" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "own.npz"], "Run a file on them: `loihi-convert run FILE --data own.npz`."),
        (["export", "own.npz"], "Name a CNN, and these images with `--data own.npz`."),
    ],
)
def test_images_in_place_of_a_network(invoke: Invoke, own_images: Path, words: list[object], hint: str) -> None:
    done = invoke(*words)
    assert (done.code, done.out, done.err) == (3, "", f"error: own.npz: holds images. {hint}\n")


@pytest.mark.slow
def test_the_next_command_has_the_steps_and_bits_of_the_training(invoke: Invoke, model: Path) -> None:
    given = ("train", "--from", model, "--epochs", 1)
    done = invoke(*given, "--qcfs", 2, "--weight-bits", 4, "-o", "few.pt")
    assert done.out.splitlines()[-1] == "next: loihi-convert export few.pt --weight-bits 4"
    assert "test accuracy" not in done.out
    assert ", test accuracy " in invoke(*given, "--test", "-o", "tested.pt").out
    done = invoke("train", "--from", "few.pt", "--epochs", 1, "-T", 2, "-o", "spiking.pt")
    assert done.out.splitlines()[-1].startswith("next: loihi-convert export spiking.pt -T 2")
