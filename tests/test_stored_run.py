"""Run folders are read back; damaged ones and other folders are refused with one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.evaluations import LABELS, entry
from support.run_folders import CLASSES, write_runs

from loihi_convert.errors import InputError
from loihi_convert.runs.run_folder import read_run


def test_confusions_are_read_at_the_files_own_t(tmp_path: Path) -> None:
    run = read_run(write_runs(tmp_path, entry([20, 150, 190, 180, 170])))
    confusion = run.confusions["model"]
    assert (confusion.timesteps, int(confusion.counts.trace()), int(confusion.counts.sum())) == (4, 180, 200)
    assert confusion.classes == CLASSES
    # True classes are rows. The last 20 of 200 images have labels 0, 1, 2, 0, ... and the class after their label.
    wrong = np.bincount((LABELS[180:] * 3 + (LABELS[180:] + 1) % 3), minlength=9).reshape(3, 3)
    assert (confusion.counts - np.diag(confusion.counts.diagonal())).tolist() == wrong.tolist()


def test_an_image_that_is_missing_is_noticed_although_its_class_was_wrong(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20, 150, 190, 180]))
    path = folder / "predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    assert lines[-1].startswith("model,199,4,")
    path.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="the images or correct classes of model"):
        read_run(folder)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"classes": ["zero", "one", "two"]}, CLASSES),
        # The data has no names, but the CNN has.
        ({"provenance": {"model": {"model": {"classes": ["zero", "one", "two"]}}}}, CLASSES),
        ({"provenance": {"model": {"model": {"classes": ["zero", "one"]}}}}, ("0", "1", "2")),
        ({"provenance": {"model": {"model": {"classes": 3}}}}, ("0", "1", "2")),
        ({}, ("0", "1", "2")),
    ],
)
def test_classes_have_the_names_of_the_data_or_of_the_cnn(
    tmp_path: Path, recorded: dict[str, object], expected: tuple[str, ...]
) -> None:
    folder = write_runs(tmp_path, entry([200]), classes=None)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **recorded}))
    assert read_run(folder).confusions["model"].classes == expected


@pytest.mark.parametrize(
    ("name", "old", "new", "found"),
    [
        ("result.json", "}", "", "Invalid JSON"),
        ("result.json", '"depth": 2', '"depth": "two"', "model.depth: Input should be a valid integer"),
        (
            "result.json",
            '5,\n        "curve',
            '4,\n        "curve',
            "model.early_exit: Value error, no point of the chosen",
        ),
        (
            "result.json",
            '"average_timesteps": 1',
            '"average_timesteps": 0',
            "model.early_exit.points.0.average_timesteps",
        ),
        ("result.json", '"spikes_per_image": 2.0', '"spikes_per_image": 1e308', "model.points.0.spikes_per_image: "),
        ("predictions.csv", "\nmodel,0,3,", "\nmodel,0,2,", "the images or correct classes of model"),
        ("predictions.csv", ",label,", ",lable,", "class 0 for an image of class None"),
        ("predictions.csv", "\nmodel,0,3,0,zero,0", "\nmodel,0,3,7,zero,0", "class 7 for an image of class 0, of 3"),
        ("predictions.csv", "\nmodel,0,3,0,zero,0", "\nmodel,0,3,0,zero,9", "class 0 for an image of class 9, of 3"),
        ("predictions.csv", "\nmodel,0,3,0,zero,0,", "\nmodel,0,3,0,zero,0,1,2,3,4,", "line 4: more fields than"),
        ("predictions.csv", "\nmodel,0,3,0,", "\nmodel,0,3,x,", "line 4: class: Input should be a valid integer"),
        ("firing_rates.csv", ",0.25\n", ",1.25\n", "line 3: firing_rate: Input should be less than or equal to 1"),
        ("firing_rates.csv", "first.conv", "conv", "other files, layers or T than in result.json"),
        ("firing_rates.csv", "model,first.conv,3,3,1.0\n", "", "first.conv of model at T = 3 has other channels"),
        ("thresholds.csv", ",5,", ",x,", "line 2: threshold: Input should be a valid integer"),
        ("thresholds.csv", ",1.0,", ",inf,", "line 2: scale: Input should be a finite number"),
        ("thresholds.csv", "model", "other", "other files, layers or T than in result.json"),
        ("thresholds.csv", "first.conv", "first\x00conv", ""),
        ("thresholds.csv", "model,first.conv,1,5,,1.0,0\n", "", "channel 2 instead of channel 1"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, old: str, new: str, found: str) -> None:
    folder = write_runs(tmp_path, entry([199, 150, 20], exit_leads=[4, 5, 9]))
    edit(folder / name, old, new)
    with pytest.raises(InputError) as caught:
        read_run(folder)
    assert caught.value.where == str(folder / name)
    assert caught.value.found.startswith(f"damaged: {found}")
    assert "Run the files again" in caught.value.hint


def test_a_file_of_an_earlier_version_lacks_a_field(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([199, 150, 20]))

    def refusal() -> InputError:
        with pytest.raises(InputError) as caught:
            read_run(folder)
        return caught.value

    for name, old, new, missing in (
        ("thresholds.csv", ",scale,", ",gain,", "line 2: scale"),
        ("result.json", '"readout": "potential",', "", "model.readout"),
        ("manifest.json", "network", "netwrok", "network"),
    ):
        edit(folder / name, old, new)
        error = refusal()
        assert error.where == str(folder / name)
        assert error.found == f"written by an earlier version, or damaged: {missing} is missing"
        assert "Run the files again" in error.hint
    # One that also holds a wrong value is damaged.
    edit(folder / "manifest.json", '"files": [', '"files": [1, ')
    assert refusal().found.startswith("damaged: ")


def test_channels_without_a_threshold(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([199, 150, 20]))
    edit(folder / "thresholds.csv", "model,first.conv,3,5,,1.0,0\n", "")
    with pytest.raises(InputError, match=r"first\.conv of model has other channels or relays"):
        read_run(folder)


def test_columns_of_later_versions_are_ignored(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([199, 150, 20]))
    path = folder / "thresholds.csv"
    path.write_text("".join(f"{line},new\n" for line in path.read_text().splitlines()))
    assert read_run(folder).thresholds is not None


def test_other_folders_are_refused(tmp_path: Path) -> None:
    def refusal(path: Path) -> InputError:
        with pytest.raises(InputError) as caught:
            read_run(path)
        return caught.value

    missing = refusal(tmp_path / "runs")
    assert (missing.where, missing.found) == (str(tmp_path / "runs"), "no such folder")
    assert refusal(Path("a" * 300)).found == "cannot be read (File name too long)"
    folder = write_runs(tmp_path, entry([20]))
    (folder / "result.json").unlink()
    error = refusal(folder)
    assert error.where == str(folder / "result.json")
    assert "No such file or directory" in error.found
    (folder / "result.json").write_text("{}")
    assert refusal(folder).found == "damaged: contains no figures"
    (folder / "manifest.json").unlink()
    error = refusal(folder)
    assert error.where == str(folder)
    assert "manifest.json" in error.found


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
