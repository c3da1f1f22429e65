"""Tables, CSV, JSON and pictures say what the evaluation says; a run folder is complete or has no manifest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from loihi_convert import report
from loihi_convert.backends import RunResult
from loihi_convert.errors import DataError, InputError, UsageError
from loihi_convert.evaluate import Evaluation, evaluate
from loihi_convert.network import Array, Conv, Dense, IntegerNeuron, QuantizedLayer, QuantizedNetwork

LABELS = np.arange(200) % 3
MANIFEST = {"network": "small", "data": "digits"}
CLASSES = ("zero", "one", "two")


def network(timesteps: int) -> QuantizedNetwork:
    """One pixel -> 4 neurons, "first.conv" -> 3 classes."""
    neuron = IntegerNeuron(np.full(4, 5), np.zeros(4, int))
    return QuantizedNetwork(
        input_shape=(1, 1, 1),
        layers=(
            QuantizedLayer("first.conv", Conv(np.ones((4, 1, 1, 1), int)), neuron, np.ones(4), largest_input=255),
            QuantizedLayer("classes", Dense(np.ones((3, 4), int)), None, np.ones(3)),
        ),
        timesteps=timesteps,
        proven_timesteps=64,
        pixel_bits=8,
        reset="soft",
    )


def run(correct_counts: Sequence[int]) -> RunResult:
    """200 images of which the first ``correct_counts[t]`` are right after step t; 2 spikes per image and step."""
    classes = np.stack([np.where(np.arange(200) < right, LABELS, (LABELS + 1) % 3) for right in correct_counts], axis=1)
    # Different numbers everywhere, so that a swapped image, step or class is noticed.
    potentials = np.arange(classes.size * 3, dtype=np.int32).reshape(*classes.shape, 3) % 997
    np.put_along_axis(potentials, classes[:, :, None], 1000, axis=2)
    spikes = np.full((200, len(correct_counts), 1), 2)
    return RunResult(potentials, spikes, 3 * spikes, seconds=0.5, startup_seconds=0.25)


def entry(
    correct_counts: Sequence[int],
    *,
    name: str = "model",
    balanced: int = 4,
    labels: Array | None = LABELS,
    has_cnn: bool = True,
    has_float: bool = True,
) -> tuple[str, Evaluation, RunResult]:
    result = run(correct_counts)
    evaluation = evaluate(
        result,
        network(balanced),
        labels=labels,
        cnn_predictions=np.where(np.arange(200) < 198, LABELS, 0) if has_cnn else None,
        float_predictions=run([min(200, count + 1) for count in correct_counts]).predictions if has_float else None,
    )
    return name, evaluation, result


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(table)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def rows(table: Table) -> list[list[str]]:
    return [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(folder: Path, *entries: tuple[str, Evaluation, RunResult], **changes: Any) -> tuple[Path, ...]:
    arguments = {"labels": LABELS, "classes": CLASSES, "manifest": MANIFEST, **changes}
    return report.write_run(folder, entries, **arguments)


def test_accuracy_table() -> None:
    _, evaluation, _ = entry([20, 150, 190, 199])
    table = report.accuracy_table(evaluation)
    # Images 198 and 199 have labels 0 and 1; the CNN says 0: 199 of 200 right. SynOps: 6 a step.
    assert rows(table) == [
        ["1", "3", "99.50", "10.50", "10.00", "6.57-14.94", "89.50", "10.00", "2.0", "6.0"],
        ["2", "4", "99.50", "75.50", "75.00", "68.57-80.49", "24.50", "75.00", "4.0", "12.0"],
        ["4", "6", "99.50", "100.00", "99.50", "97.22-99.91", "0.00", "99.50", "8.0", "24.0"],
    ]
    text = printed(table)
    assert "200 images in 0.5 s (400 images/s, 0.2 s to start)" in text
    assert "thresholds balanced for T = 4, anytime readout" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "end of Loihi's range" not in text


def test_accuracy_table_leaves_out_what_is_unknown() -> None:
    _, evaluation, _ = entry([20, 150], labels=None, has_cnn=False, has_float=False)
    headers = [column.header for column in report.accuracy_table(evaluation).columns]
    assert headers == ["T", "T +\ndepth", "spikes\n/image", "SynOps\n/image"]


def test_accuracy_table_names_saturation() -> None:
    evaluation = entry([20, 150])[1].model_copy(update={"saturated_images": 7})
    text = " ".join(printed(report.accuracy_table(evaluation)).split())
    assert "7 images reached an output potential of ±131071, the end of Loihi's range" in text


def test_layer_table() -> None:
    _, evaluation, _ = entry([20, 150, 190, 199])
    table = report.layer_table(evaluation)
    # 2 of 4 neurons spike at each step; 8 spikes in 4 steps reach 3 synapses each.
    assert rows(table) == [["first.conv", "4", "50.00", "", "4"], ["classes", "3", "", "24", "12"]]
    assert "at T = 4; SynOps" in printed(table)


def test_per_t_table_reads_each_file_at_its_own_timesteps() -> None:
    files = [
        entry([180, 1, 2, 3], name="model-T1", balanced=1)[:2],
        entry([1, 2, 3, 196], name="model-T4", balanced=4)[:2],
    ]
    table = report.per_t_table(files)
    assert [(row[0], row[1], row[5]) for row in rows(table)] == [("model-T1", "1", "90.00"), ("model-T4", "4", "98.00")]
    text = printed(table)
    assert "one file per T" in text
    assert "anytime" not in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_names_with_markup_are_printed_as_they_are() -> None:
    evaluation = entry([20])[1]
    assert "[red]x" in printed(report.per_t_table([("[red]x", evaluation)]))


@given(st.floats(0, 9e14))
def test_counts_keep_three_digits_in_six_characters(count: float) -> None:
    text = report._count(count)
    assert len(text) <= 6
    number, _, unit = text.replace(",", "").partition(" ")
    assert float(number) * 1000 ** " kMGT".index(unit or " ") == pytest.approx(count, rel=0.005, abs=0.0501)


def test_run_folder_holds_every_file_the_manifest_last(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    paths = write(folder, entry([20, 150, 190, 199]))
    assert [path.name for path in paths] == [
        "accuracy.csv",
        "result.json",
        "predictions.csv",
        "accuracy.svg",
        "accuracy.png",
        "manifest.json",
    ]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert json.loads((folder / "manifest.json").read_text()) == MANIFEST


def test_result_json_is_the_evaluations(tmp_path: Path) -> None:
    first, second = entry([20, 150]), entry([30], name="other", labels=None)
    write(tmp_path, first, second)
    read = TypeAdapter(dict[str, Evaluation]).validate_json((tmp_path / "result.json").read_text())
    assert read == {"model": first[1], "other": second[1]}


def flattened(name: str, evaluation: Evaluation) -> list[dict[str, Any]]:
    """What accuracy.csv must say, from the evaluation's JSON."""
    found = []
    for point in evaluation.model_dump()["points"]:
        point |= {"cnn_accuracy_interval": evaluation.cnn_accuracy_interval}
        for field in ("accuracy", "float_accuracy", "cnn_accuracy"):
            point[f"{field}_low"], point[f"{field}_high"] = point.pop(f"{field}_interval") or (None, None)
        (point["firing_rate_first.conv"],) = point.pop("firing_rate")
        (point["synaptic_operations_first.conv"],) = point.pop("synaptic_operations_per_layer")
        found.append(
            {
                "file": name,
                "balanced_timesteps": evaluation.timesteps,
                "image_count": evaluation.image_count,
                "cnn_accuracy": evaluation.cnn_accuracy,
                **point,
            }
        )
    return found


@pytest.mark.parametrize("labels", [LABELS, None])
def test_accuracy_csv_holds_every_field_exactly(tmp_path: Path, labels: Array | None) -> None:
    entries = [entry([20, 150, 190], labels=labels), entry([30, 40], name="other", labels=labels, has_float=False)]
    write(tmp_path, *entries, labels=labels)
    expected = [row for name, evaluation, _ in entries for row in flattened(name, evaluation)]
    found = read_csv(tmp_path / "accuracy.csv")
    # str(float) of Python reads back as the same float.
    assert found == [{name: "" if value is None else str(value) for name, value in row.items()} for row in expected]


def test_predictions_csv_has_a_row_for_every_image_and_reported_timesteps(tmp_path: Path) -> None:
    name, evaluation, result = entry([20, 150, 190])
    write(tmp_path, (name, evaluation, result))
    found = read_csv(tmp_path / "predictions.csv")
    expected = [
        {
            "file": "model",
            "image": str(image),
            "timesteps": str(timesteps),
            "class": str(result.predictions[image, timesteps - 1]),
            "class_name": CLASSES[result.predictions[image, timesteps - 1]],
            "label": str(LABELS[image]),
            **{f"potential_{k}": str(result.potentials[image, timesteps - 1, k]) for k in range(3)},
        }
        for image in range(200)
        for timesteps in (1, 2, 3)
    ]
    assert found == expected


def test_predictions_csv_without_labels_and_names(tmp_path: Path) -> None:
    write(tmp_path, entry([20], labels=None), labels=None, classes=None)
    columns = list(read_csv(tmp_path / "predictions.csv")[0])
    assert columns == ["file", "image", "timesteps", "class", "potential_0", "potential_1", "potential_2"]


def test_pictures_are_a_png_and_a_reproducible_svg(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, entry([20, 197, 198, 199]))
    png = (tmp_path / "one" / "accuracy.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    # 10.4 x 4.6 inches (two panels) at 160 dots an inch; width and height stand at byte 16 of a PNG.
    assert struct.unpack(">II", png[16:24]) == (1664, 736)
    svg = (tmp_path / "one" / "accuracy.svg").read_bytes()
    assert svg == (tmp_path / "two" / "accuracy.svg").read_bytes()
    assert b"<dc:date>" not in svg


def test_no_picture_where_nothing_is_known(tmp_path: Path) -> None:
    paths = write(tmp_path, entry([20], labels=None, has_cnn=False), labels=None)
    assert [path.name for path in paths] == ["accuracy.csv", "result.json", "predictions.csv", "manifest.json"]


def drawn(figure: Figure | None) -> dict[str, Any]:
    """x, y and line style of each labelled line in the first panel."""
    assert figure is not None
    lines: dict[str, Any] = {}
    for line in figure.axes[0].get_lines():
        x, y = (np.asarray(data, float).tolist() for data in line.get_data())
        lines[str(line.get_label())] = (x, y, str(line.get_linestyle()))
    return lines


def test_picture_of_one_file_is_a_curve() -> None:
    figure = report.accuracy_figure([entry([20, 150, 190, 199])[:2]], "small on digits, 200 images")
    lines = drawn(figure)
    assert lines["fixed point, 95 % interval"] == ([1, 2, 4], pytest.approx([10, 75, 99.5]), "-")
    assert lines["float SNN"] == ([1, 2, 4], pytest.approx([10.5, 75.5, 100]), "--")
    assert lines["CNN, 99.50 %"][1] == [99.5, 99.5]
    assert figure is not None
    assert figure.get_suptitle() == "small on digits, 200 images"
    assert "balanced for T = 4" in figure.axes[0].get_title(loc="left")
    assert figure.axes[0].get_xlabel() == "latency T, time steps (on Lava: T + 2)"


def test_picture_of_several_files_is_a_marker_each() -> None:
    late, early = entry([1, 2, 3, 196], name="late"), entry([180, 1, 2, 3], name="early", balanced=1)
    lines = drawn(report.accuracy_figure([late[:2], early[:2]], "title"))
    assert lines["fixed point, 95 % interval"] == ([1, 4], pytest.approx([90, 98]), "None")
    assert lines["float SNN"] == ([1, 4], pytest.approx([90.5, 98.5]), "None")


def test_picture_without_labels_shows_the_agreement() -> None:
    figure = report.accuracy_figure([entry([20, 150], labels=None)[:2]], "title")
    lines = drawn(figure)
    assert list(lines) == ["fixed point"]
    assert figure is not None
    assert figure.axes[0].get_ylabel() == "agreement with the CNN's class, %"


@pytest.mark.parametrize(
    ("correct_counts", "panel_count", "bottom"),
    [([196, 198, 199, 199], 1, 90), ([20, 197, 198, 199], 2, 0), ([20, 60, 80, 120], 1, 0)],
    ids=["all near the CNN", "from far away to the CNN", "never near the CNN"],
)
def test_vertical_range(correct_counts: list[int], panel_count: int, bottom: int) -> None:
    figure = report.accuracy_figure([entry(correct_counts)[:2]], "title")
    assert figure is not None
    assert len(figure.axes) == panel_count
    low, high = figure.axes[0].get_ylim()
    assert bottom <= low <= bottom + 5
    assert 100 < high <= 105
    if panel_count == 2:
        assert figure.axes[1].get_ylim()[0] >= 90
        assert figure.axes[1].get_xlim()[0] > 1


def test_a_failure_while_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(figure: Figure, kind: str) -> bytes:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(report, "_image", fail)
    with pytest.raises(RuntimeError, match="no fonts"):
        write(tmp_path / "run", entry([20]))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, content: bytes) -> None:
        if path.suffix == ".png":
            raise InputError(f"{path}: cannot be written (No space left on device)")
        path.write_bytes(content)

    monkeypatch.setattr(report, "write_atomically", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write(tmp_path, entry([20]))
    assert not (tmp_path / "manifest.json").exists()


def test_two_files_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run: several files are called model; rename them, or run them one by one\."):
        write(tmp_path, entry([20]), entry([30]))


def test_class_names_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model: 3 classes, but 2 names of classes; give one for each, or none\."):
        write(tmp_path, entry([20]), classes=("a", "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"cannot be made \(.*\)\. Choose another place with -o\."
    with pytest.raises(InputError, match=message):
        write(tmp_path / "file", entry([20]))
    with pytest.raises(InputError, match=message):
        report.new_run_folder(tmp_path / "file", "digits")
    with pytest.raises(InputError, match=message):
        report.new_run_folder(tmp_path, "missing/digits")


def test_run_folders_are_new(tmp_path: Path) -> None:
    folders = [report.new_run_folder(tmp_path / "runs", "digits") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() for folder in folders)
    assert all(re.fullmatch(r"digits-\d{8}T\d{6}Z(-\d)?", folder.name) for folder in folders)


def test_manifest_names_files_without_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "VERSIONED_PACKAGES", ("numpy", "a-package-that-nobody-has"))
    model = tmp_path / "model.net"
    model.write_bytes(b"content")
    command_line = [
        "/usr/bin/loihi-convert",
        "run",
        str(model),
        "../other.net",
        f"--output={tmp_path}/runs",
        f"-o{tmp_path}/runs/",
        "-T",
        "1,2,4",
        "--data=digits",
    ]
    found = report.manifest(
        network="small", data="digits", backend="ref", files=[model], command_line=command_line, seed=3
    )
    assert found["files"] == [{"name": "model.net", "sha256": hashlib.sha256(b"content").hexdigest()}]
    assert found["command_line"] == [
        "loihi-convert",
        "run",
        "model.net",
        "other.net",
        "--output=runs",
        "-oruns/",
        "-T",
        "1,2,4",
        "--data=digits",
    ]
    assert found["packages"] == {"numpy": np.__version__, "a-package-that-nobody-has": None}
    assert (found["network"], found["data"], found["backend"], found["seed"]) == ("small", "digits", "ref", 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["utc_time"])
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpu_count"] >= 1
    assert str(tmp_path) not in json.dumps(found)


def test_importing_the_reports_imports_nothing_heavy() -> None:
    program = (
        "import sys, loihi_convert.report; print(*sorted({'matplotlib', 'rich', 'scipy', 'torch'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == ""
