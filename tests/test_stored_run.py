"""What a run folder holds is read back; what is none, or damaged, is refused in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.evaluations import entry
from support.run_folders import CLASSES, write_runs

from loihi_convert.errors import InputError
from loihi_convert.runs.stored_run import read_run


def test_confusions_are_read_at_the_own_t(tmp_path: Path) -> None:
    run = read_run(write_runs(tmp_path, entry([20, 150, 190, 180, 170])))
    confusion = run.confusions["model"]
    assert (confusion.timesteps, int(confusion.counts.trace()), int(confusion.counts.sum())) == (4, 180, 200)
    assert confusion.classes == CLASSES


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"classes": ["zero", "one", "two"]}, CLASSES),
        # Of an earlier version.
        ({"provenance": {"model": {"model": {"classes": ["zero", "one", "two"]}}}}, CLASSES),
        ({"provenance": {"model": {"model": {"classes": ["zwei", "one", "two"]}}}}, ("zero", "one", "2")),
        ({"provenance": {"model": {"model": {"classes": ["zero", "one"]}}}}, ("zero", "one", "2")),
        ({"provenance": {"model": {"model": {"classes": 3}}}}, ("zero", "one", "2")),
        ({}, ("zero", "one", "2")),
    ],
)
def test_a_class_that_is_never_predicted_has_its_name(
    tmp_path: Path, recorded: dict[str, object], expected: tuple[str, ...]
) -> None:
    folder = write_runs(tmp_path, entry([200], labels=np.zeros(200, int)), labels=np.zeros(200, int))
    content = (folder / "predictions.csv").read_text()
    content = re.sub(r"^(model,\d+,\d),2,two,", r"\1,1,one,", content, flags=re.MULTILINE)
    (folder / "predictions.csv").write_text(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **recorded}))
    assert read_run(folder).confusions["model"].classes == expected


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("manifest.json", "network", "netwrok", r"damaged: network: Field required\. Make the run folder again with"),
        ("result.json", "}", "", r"damaged: Invalid JSON"),
        ("result.json", '"depth": 2', '"depth": "two"', r"damaged: model\.depth: Input should be a valid integer"),
        ("predictions.csv", "\nmodel,0,3,", "\nmodel,0,2,", r"damaged: other images or right answers of model than in"),
        ("predictions.csv", ",label,", ",lable,", r"damaged: a row that makes no sense \('label'\)"),
        ("predictions.csv", "\nmodel,0,3,0,zero,0", "\nmodel,0,3,7,zero,0", r"class 7 for an image of class 0, of 3"),
        ("firing_rates.csv", ",0.25\n", ",1.25\n", r"damaged: a row that makes no sense \(channel 1 with rate 1\.25\)"),
        ("firing_rates.csv", "first.conv", "conv", r"damaged: other files, layers or T than in result\.json"),
        ("thresholds.csv", ",5,", ",x,", r"damaged: a row that makes no sense \(invalid literal"),
        ("thresholds.csv", "model", "other", r"damaged: other files or layers than in result\.json"),
        ("thresholds.csv", "first.conv", "first\x00conv", r"damaged: "),
        (
            "thresholds.csv",
            "model,first.conv,3,5,,1.0,0\n",
            "",
            r"4 channels of first\.conv at T = 1 of model, 3 in thresholds\.csv or at another T\. Make the run",
        ),
        ("firing_rates.csv", "model,first.conv,3,3,1.0\n", "", r"3 channels of first\.conv at T = 3 of model, 4 in"),
        (
            "predictions.csv",
            "\nmodel,0,3,0,zero,0,",
            "\nmodel,0,3,0,zero,0,1,2,3,4,",
            r"damaged: a row with more fields than the first line names\.",
        ),
    ],
)
def test_what_is_damaged(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    folder = write_runs(tmp_path, entry([199, 150, 20]))
    edit(folder / name, old, new)
    with pytest.raises(InputError, match=rf"{re.escape(name)}: {message}" if message[0] == "d" else message):
        read_run(folder)


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runs: no such folder; give folders that `loihi-convert run` has written\."):
        read_run(tmp_path / "runs")
    folder = write_runs(tmp_path, entry([20]))
    (folder / "result.json").unlink()
    with pytest.raises(InputError, match=r"result\.json: cannot be read \(No such file or directory\)"):
        read_run(folder)
    (folder / "result.json").write_text("{}")
    with pytest.raises(InputError, match=r"result\.json: damaged: no figures\."):
        read_run(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(
        InputError, match=r"holds no manifest\.json, which `loihi-convert run` writes last; it is no run"
    ):
        read_run(folder)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
