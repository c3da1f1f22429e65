"""A regression, and a classifier with a single logit, from a state dict to a report on the command line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import support.own_cnns
import torch
from support import SUPPORT
from support.command_line import Invoke, invoker
from support.own_cnns import blobs, fitted
from torch import nn

pytestmark = pytest.mark.slow

SIZE = 8
NETS = f"""
from support.own_cnns import blob_network

def position():
    return blob_network(2, {SIZE})

def side():
    return blob_network(1, {SIZE})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and checkpoints for the position of a blob, and for whether it is in the right half."""
    path = tmp_path_factory.mktemp("blobs")
    for name, count, seed in (("train", 600, 0), ("test", 100, 1)):
        images, targets = blobs(count, SIZE, seed=seed)
        right = (targets[:, 1] > (SIZE - 1) / 2).astype(int)
        np.savez(path / f"{name}.npz", images=images, targets=targets, classes=["row", "column"])
        np.savez(path / f"{name}-side.npz", images=images, labels=right, classes=["left", "right"])
        others = blobs(100, SIZE, seed=2)[0]
        np.savez(path / f"{name}-exit.npz", images=images, labels=right, calibration=others)
        np.savez(path / f"{name}-bare.npz", images=images)
    images, targets = blobs(600, SIZE)
    torch.save(fitted(images, targets, nn.MSELoss(), steps=300, size=SIZE).state_dict(), path / "position.pt")
    right = targets[:, 1:] > (SIZE - 1) / 2
    torch.save(fitted(images, right, nn.BCEWithLogitsLoss(), steps=150, size=SIZE).state_dict(), path / "side.pt")
    (path / "blob_nets.py").write_text(NETS)
    return path


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Invoke:
    """Run ``loihi-convert`` with the given arguments in the folder of the data."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(SUPPORT.parent))
    return invoker(monkeypatch, capsys)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_regression_from_state_dict_to_report(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    arch = ("--arch", "blob_nets:position")
    code, out, err = invoke(
        *("export", "position.pt", "-o", tmp_path / "position.net", "-T", "4,16", "--task", "regression"),
        *("--data", "train.npz", *arch),
    )
    assert code == 0, err
    assert "wrote 2 files; share of the variance of the CNN's outputs explained on " in out
    files = [tmp_path / f"position-T{steps}.net" for steps in (4, 16)]
    known = ("--data", "test.npz", "--model", "position.pt", *arch)
    code, out, err = invoke("run", files[1], *known, "-o", tmp_path / "one")
    assert code == 0, err
    assert "early exit  does not apply to a regression" in out
    assert "RMSE" in out
    assert "means over 2 outputs" in out
    assert "worst output: " in out
    assert "steps on average" not in out

    run = tmp_path / "one"
    result = json.loads((run / "result.json").read_text())["position-T16"]
    at = result["regression"]["points"][-1]
    assert result["regression"]["output_names"] == ["row", "column"]
    assert at["to_targets"]["mean"]["rmse"] < 0.6
    assert at["to_cnn"]["mean"]["r2"] > 0.95
    table = [row for row in rows(run / "regression.csv") if row["timesteps"] == "16"]
    assert [row["output_name"] for row in table] == ["mean", "row", "column"]
    assert float(table[0]["rmse"]) == at["to_targets"]["mean"]["rmse"]
    assert float(table[2]["r2_to_cnn"]) == at["to_cnn"]["outputs"][1]["r2"]
    assert float(table[0]["rmse_cnn"]) == result["regression"]["cnn"]["mean"]["rmse"]
    for point in result["regression"]["points"]:
        predictions = [row for row in rows(run / "predictions.csv") if row["timesteps"] == str(point["timesteps"])]
        assert len(predictions) == 100
        assert "class" not in predictions[0]
        found, wanted = (
            np.array([[float(row[f"{kind}_{index}"]) for index in (0, 1)] for row in predictions])
            for kind in ("output", "target")
        )
        rmse = np.sqrt(np.square(found - wanted).mean(axis=0)).mean()
        assert rmse == pytest.approx(point["to_targets"]["mean"]["rmse"])

    code, out, err = invoke("run", *files, *known, "-o", tmp_path / "both")
    assert code == 0, err
    assert "2 files on test.npz" in out
    assert re.search(r"position-T16\.net +16 +0\.\d+ +█", out)
    page = tmp_path / "report.html"
    code, out, err = invoke("report", tmp_path / "one", tmp_path / "both", "-o", page)
    assert code == 0, err
    text = page.with_suffix(".md").read_text()
    for words in ("Error and latency", "RMSE at T = 16", "means over 2 outputs", "errors of each output at T = 16"):
        assert words in text, words
    for words in ("Error at each file&#39;s own T", "If you stop the run early", "CNN, "):
        assert words in page.read_text(), words
    for words in ("Accuracy and latency", "Conversion loss", "Confusion", "Early exit", "Wilson"):
        assert words not in text, words


def test_a_damaged_run_folder_of_a_regression(invoke: Invoke, tmp_path: Path) -> None:
    arch, file = ("--arch", "blob_nets:position"), tmp_path / "position.net"
    invoke("export", "position.pt", "-o", file, "-T", "2", "--task", "regression", "--data", "train.npz", *arch)
    code, _, err = invoke("run", file, "--data", "test.npz", "-o", tmp_path / "run")
    assert code == 0, err
    path = tmp_path / "run" / "result.json"
    text = path.read_text()
    for change, found in (
        (lambda one: one["points"].pop(), "the errors of the regression are at other T"),
        (lambda one: one["output_names"].pop(), "not one error per output"),
    ):
        result = json.loads(text)
        change(result["position"]["regression"])
        path.write_text(json.dumps(result))
        code, _, err = invoke("report", tmp_path / "run", "-o", tmp_path / "report.html")
        assert code == 3
        assert found in err


def test_without_targets_and_without_the_cnn(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "position.net"
    arch = ("--arch", "blob_nets:position")
    code, _, err = invoke(
        "export", "position.pt", "-o", file, "-T", "4", "--task", "regression", "--data", "train-bare.npz", *arch
    )
    assert code == 0, err
    code, out, err = invoke(
        "run", file, "--data", "test-bare.npz", "--model", "position.pt", *arch, "-o", tmp_path / "a"
    )
    assert code == 0, err
    assert "RMSE to the CNN " in out
    assert "no targets, so the error is unknown; only the error to the CNN is known" in out
    code, out, err = invoke("run", file, "--data", "test-bare.npz", "-o", tmp_path / "b")
    assert code == 0, err
    assert "nothing is compared" in out
    assert "pass --arch blob_nets:position" in out
    code, out, err = invoke("report", tmp_path / "a", "-o", tmp_path / "report.html")
    assert code == 0, err
    assert "RMSE to the CNN's outputs" in (tmp_path / "report.md").read_text()


def test_data_must_match_the_task(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    arch = ("--arch", "blob_nets:position")
    code, _, err = invoke("export", "position.pt", "-o", tmp_path / "a.net", "--data", "train.npz", *arch)
    assert code == 3
    assert "--data: found targets; must contain labels" in err
    assert "--task" in err
    code, _, err = invoke(
        "export", "position.pt", "-o", tmp_path / "a.net", "--task", "regression", "--data", "train-side.npz", *arch
    )
    assert code == 3
    assert "--data: found labels; must contain targets" in err
    assert not list(tmp_path.iterdir())


def test_one_logit_is_a_class_above_zero(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "side.net"
    arch = ("--arch", "blob_nets:side")
    code, out, err = invoke("export", "side.pt", "-o", file, "-T", "16", "--data", "train-side.npz", *arch)
    assert code == 0, err
    code, out, err = invoke(
        "run", file, "--data", "test-side.npz", "--model", "side.pt", *arch, "-o", tmp_path / "run", "--json"
    )
    assert code == 0, err
    result = json.loads(out)["side"]
    point = result["points"][-1]
    assert result["cnn_accuracy"] > 0.9
    assert point["accuracy"] > 0.85
    assert 0.9 < point["agreement_with_cnn"] <= 1
    assert result["notes"] == []
    assert result["regression"] is None
    # The sign of the potential gives the class.
    predictions = [row for row in rows(tmp_path / "run" / "predictions.csv") if row["timesteps"] == "16"]
    assert {row["class"] for row in predictions} == {"0", "1"}
    assert all((row["class"] == "1") == (int(row["potential_0"]) > 0) for row in predictions)
    assert {(row["class"], row["class_name"]) for row in predictions} == {("0", "left"), ("1", "right")}
    right = sum(row["class"] == row["label"] for row in predictions)
    assert right == point["correct_count"]
    code, out, err = invoke("report", tmp_path / "run", "-o", tmp_path / "report.html")
    assert code == 0, err
    text = (tmp_path / "report.md").read_text()
    assert "Confused classes" in text
    assert "left" in text


def test_early_exit_of_one_logit(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "side.net"
    arch = ("--arch", "blob_nets:side")
    code, _, err = invoke("export", "side.pt", "-o", file, "-T", "16", "--data", "train-side.npz", *arch)
    assert code == 0, err
    known = ("--model", "side.pt", *arch)
    code, out, err = invoke(
        "run", file, "--data", "test-exit.npz", *known, "-o", tmp_path / "run", "--exit-tolerance", "1", "--json"
    )
    assert code == 0, err
    early = json.loads(out)["side"]["early_exit"]
    chosen = next(point for point in early["points"] if point["margin"] == early["choice"]["margin"])
    assert chosen["average_timesteps"] < 12
    assert chosen["accuracy"] > 0.8


@pytest.mark.parametrize(("example", "found"), [("blobs", "RMSE"), ("signals", "CNN")])
def test_the_demonstration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, example: str, found: str
) -> None:
    """python tests/support/own_cnns.py, with less training, and noise in place of MNIST-1D."""
    monkeypatch.syspath_prepend(str(SUPPORT))
    fewer = {
        "TRAINING": 300,
        "TEST": 50,
        "BLOB_STEPS": 60,
        "SIGNAL_STEPS": 30,
        "TIMESTEPS": "1,4",
        "FINE_TUNED": ("1",),
    }
    for name, value in fewer.items():
        monkeypatch.setattr(support.own_cnns, name, value)
    random = np.random.default_rng(0)
    noise = {name: random.normal(size=(60, 40)) for name in ("x", "x_test")}
    noise |= {name: np.arange(60) % 10 for name in ("y", "y_test")}
    monkeypatch.setattr(support.own_cnns, "generated_signals", lambda: noise)
    support.own_cnns.main(example, tmp_path / example)
    assert found in capsys.readouterr().out
    assert (tmp_path / example / "per-T" / "result.json").exists()
    assert (tmp_path / example / "per-T" / "report.html").exists() == (example == "blobs")
