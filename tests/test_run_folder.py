"""CSV and JSON contain the values of the evaluation; a run folder is complete or has no manifest."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pydantic import TypeAdapter
from support import oracle
from support.evaluations import LABELS, entry
from support.strategies import Case, networks

from loihi_convert.backends import result as results
from loihi_convert.backends.reference import run_network
from loihi_convert.errors import DataError, InputError, UsageError
from loihi_convert.ground import files
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.network import IntegrateAndFire
from loihi_convert.metrics.evaluation import Evaluation, evaluate
from loihi_convert.report.build import report
from loihi_convert.report.page import html, markdown
from loihi_convert.runs import run_folder
from loihi_convert.runs.columns import FileResults, ImageFacts
from loihi_convert.runs.run_folder import ReadFile, new_manifest, read_run

MANIFEST = {"network": "small", "data": "digits"}
CLASSES = ("zero", "one", "two")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(folder: Path, *runs: FileResults, **changes: Any) -> tuple[Path, ...]:
    manifest = changes.pop("manifest", MANIFEST)
    known = ImageFacts(**{"labels": LABELS, "classes": CLASSES, **changes})
    return run_folder.write_run(folder, runs, known, manifest)


def test_run_folder_holds_every_file_the_manifest_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "one"
    written: list[Path] = []

    def write_atomically(path: Path, content: bytes) -> None:
        written.append(path)
        files.write_atomically(path, content)

    monkeypatch.setattr(run_folder, "write_atomically", write_atomically)
    paths = write(folder, entry([20, 150, 190, 199]))
    assert [path.name for path in paths] == [
        "accuracy.csv",
        "energy.csv",
        "firing_rates.csv",
        "thresholds.csv",
        "result.json",
        "predictions.csv",
        "manifest.json",
    ]
    assert tuple(written) == paths
    assert sorted(folder.iterdir()) == sorted(paths)
    assert json.loads((folder / "manifest.json").read_text()) == MANIFEST


def test_energy_csv_contains_the_estimates(tmp_path: Path) -> None:
    run = entry([20, 150, 190, 199])
    write(tmp_path, run)
    found = read_csv(tmp_path / "energy.csv")
    assert run.evaluation.energy is not None
    for row, one in zip(found, run.evaluation.energy.estimates, strict=True):
        low, high = one.loihi1_joules
        assert (row["file"], int(row["timesteps"])) == ("model", one.timesteps)
        assert (float(row["loihi1_joules_low"]), float(row["loihi1_joules_high"])) == (low, high)
        assert float(row["synaptic_operations"]) == one.synaptic_operations
    assert list(found[0])[-2:] == ["arithmetic_joules_low", "arithmetic_joules_high"]


def test_result_json_contains_the_evaluations(tmp_path: Path) -> None:
    first, second = entry([20, 150], exit_leads=[4, 7]), entry([30], name="other", labels=None)
    write(tmp_path, first, second)
    read = TypeAdapter(dict[str, Evaluation]).validate_json((tmp_path / "result.json").read_text())
    assert read == {"model": first[1], "other": second[1]}


def flattened(name: str, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the expected rows of accuracy.csv, from the evaluation's JSON."""
    found = []
    for point in evaluation.model_dump()["points"]:
        point |= {"cnn_accuracy_interval": evaluation.cnn_accuracy_interval}
        for field in ("accuracy", "float_accuracy", "cnn_accuracy"):
            point[f"{field}_low"], point[f"{field}_high"] = point.pop(f"{field}_interval") or (None, None)
        (point["firing_rate_first.conv"],) = point.pop("firing_rate")
        (point["synaptic_operations_first.conv"],) = point.pop("synaptic_operations_per_layer")
        # The network has neither relays nor a circuit.
        assert (point.pop("relay_spikes_per_image"), point.pop("relay_synaptic_operations")) == (0, 0)
        assert point.pop("circuit_synaptic_operations") is None
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
    expected = [row for run in entries for row in flattened(run.name, run.evaluation)]
    found = read_csv(tmp_path / "accuracy.csv")
    # In Python, float(str(x)) equals x.
    assert found == [{name: "" if value is None else str(value) for name, value in row.items()} for row in expected]


def test_early_exit_csv_holds_every_margin_exactly(tmp_path: Path) -> None:
    entries = [
        entry([20, 150, 190], exit_leads=[4, 7, 9]),
        entry([30], name="without"),
        entry([30, 40], name="other", exit_leads=[4, 7]),
    ]
    paths = write(tmp_path, *entries)
    assert [path.name for path in paths[:2]] == ["accuracy.csv", "early_exit.csv"]
    expected = []
    for name, evaluation, result, _ in entries:
        for point in [] if evaluation.early_exit is None else evaluation.early_exit.model_dump()["points"]:
            point["accuracy_low"], point["accuracy_high"] = point.pop("accuracy_interval")
            known = {
                "file": name,
                "balanced_timesteps": 4,
                "timesteps": result.potentials.shape[1],
                "image_count": 200,
                "chosen": point["margin"] == 5,
            }
            expected.append({key: "" if value is None else str(value) for key, value in {**known, **point}.items()})
    found = read_csv(tmp_path / "early_exit.csv")
    assert found == expected
    assert [row["margin"] for row in found] == ["0", "5", "9", ""] * 2


@pytest.mark.parametrize("block", [1_000, 64])
def test_predictions_csv_has_a_row_for_every_image_and_reported_timesteps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(results, "_PART_IMAGES", block)
    run = entry([20, 150, 190])
    write(tmp_path, run, paths=[f"{index}.png" for index in range(200)])
    result = run.result
    found = read_csv(tmp_path / "predictions.csv")
    expected = [
        {
            "file": "model",
            "image": str(image),
            "path": f"{image}.png",
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


def test_names_that_are_not_utf8_lose_nothing(tmp_path: Path) -> None:
    strange, literal = os.fsdecode(b"caf\xe9"), r"caf\udce9"
    run = entry([20, 150], name=strange)
    made = new_manifest(
        network=strange,
        data="a",
        data_fingerprint="",
        backend="ref",
        files=[],
        command_line=["run", strange],
        seed=None,
    )
    write(tmp_path, run, paths=[f"{strange}.png"] * 200, classes=(strange, r"\udce9", "two"), manifest=made)
    first = read_csv(tmp_path / "predictions.csv")[0]
    assert (first["file"], first["path"]) == (literal, f"{literal}.png")
    stored = read_run(tmp_path)
    assert stored.evaluations == {literal: run.evaluation}
    assert (stored.manifest.network, stored.manifest.command_line) == (literal, ("loihi-convert", literal))


def test_names_with_line_ends_and_quotes_are_read_back(tmp_path: Path) -> None:
    """Class names from a file with CR LF line ends, read by lines, end with CR."""
    classes = ("zero\r", 'o"n\ne', "t,wo\r\n")
    made = new_manifest(network="a", data="a", data_fingerprint="", backend="ref", files=[], command_line=[], seed=None)
    run = entry([20, 150], name="a\rb")
    write(tmp_path, run, paths=["c\rd"] * 200, classes=classes, manifest={**made, "classes": classes})
    rows = read_csv(tmp_path / "predictions.csv")
    assert {(row["file"], row["path"]) for row in rows} == {("a\rb", "c\rd")}
    assert all(row["class_name"] == classes[int(row["class"])] for row in rows)
    assert read_run(tmp_path).confusions["a\rb"].classes == classes


def test_names_are_no_formulas_and_control_nothing(tmp_path: Path) -> None:
    """Those of files are read back, with control characters escaped; numbers stay."""
    classes = ("=1+1", "-2+cmd|' /C calc'!A0", "\x1b[2J-3\x9b")
    made = new_manifest(network="a", data="a", data_fingerprint="", backend="ref", files=[], command_line=[], seed=None)
    run, folder = entry([20, 150], name="@a\x1b"), tmp_path / "run"
    write(
        folder, run, paths=["-3.5e1", "+2-3", "'=a", "-"] * 50, classes=classes, manifest={**made, "classes": classes}
    )
    rows = read_csv(folder / "predictions.csv")
    assert {(row["file"], row["path"]) for row in rows[:8]} == {
        (r"'@a\x1b", path) for path in ("-3.5e1", "'+2-3", "''=a", "'-")
    }
    written = ("'=1+1", "'-2+cmd|' /C calc'!A0", r"\x1b[2J-3\x9b")
    assert all(row["class_name"] == written[int(row["class"])] for row in rows)
    assert not any(byte < 32 and byte != 10 for path in folder.glob("*.csv") for byte in path.read_bytes())
    assert read_run(folder).evaluations == {r"@a\x1b": run.evaluation}
    page = report([read_run(folder)])
    assert not {"\x1b", "\x9b"} & {*html(page), *markdown(page)}


def test_a_row_ends_with_a_line_feed(tmp_path: Path) -> None:
    write(tmp_path, entry([20]), paths=["a.png"] * 200)
    for path in tmp_path.glob("*.csv"):
        assert b"\r" not in path.read_bytes()


def test_predictions_csv_of_files_with_other_columns(tmp_path: Path) -> None:
    run, other = entry([20, 150]), entry([30, 40], name="other")
    fires = replace(other.result, output_spikes=np.ones(other.result.potentials.shape, np.bool_))
    write(tmp_path, run, other._replace(result=fires))
    first, *_, last = read_csv(tmp_path / "predictions.csv")
    assert list(first)[-6:] == [f"{name}_{k}" for name in ("potential", "spike_count") for k in range(3)]
    assert [first[f"spike_count_{k}"] for k in range(3)] == [""] * 3
    # Up to T = 2.
    assert [last[f"spike_count_{k}"] for k in range(3)] == ["2"] * 3


def test_predictions_csv_is_created_row_by_row(tmp_path: Path) -> None:
    run = entry([20, 150, 190])
    potentials = np.zeros((200, 3, 250), np.int32)
    tracemalloc.start()
    write(tmp_path, run._replace(result=replace(run.result, potentials=potentials)), classes=None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 600 rows of 250 cells of two bytes are 0.3 MB; as dicts, all at once, they take 14 MB.
    assert (tmp_path / "predictions.csv").stat().st_size < 400_000
    assert peak < 4_000_000


def test_predictions_csv_without_labels_and_names(tmp_path: Path) -> None:
    write(tmp_path, entry([20], labels=None), labels=None, classes=None)
    columns = list(read_csv(tmp_path / "predictions.csv")[0])
    assert columns == ["file", "image", "timesteps", "class", "potential_0", "potential_1", "potential_2"]


def test_firing_rates_csv_is_spikes_per_neuron_image_and_step(tmp_path: Path) -> None:
    write(tmp_path, entry([20, 150, 190], balanced=3), entry([20], name="other"))
    found = read_csv(tmp_path / "firing_rates.csv")
    # One neuron per channel, 200 images, the same number of spikes in each step, so the same rate at each T.
    rates = [("0", 0.0), ("1", 0.25), ("2", 0.75), ("3", 1.0)]
    expected = [("model", timesteps, channel, rate) for timesteps in "123" for channel, rate in rates]
    expected += [("other", "1", channel, rate) for channel, rate in rates]
    assert {row["layer"] for row in found} == {"first.conv"}
    assert [(row["file"], row["timesteps"], row["channel"], float(row["firing_rate"])) for row in found] == expected


@given(networks())
@settings(max_examples=15, deadline=None)
def test_rates_and_thresholds_equal_plain_int64_loops(case: Case) -> None:
    network, images = case
    result = run_network(network, images, 5)
    _, spikes = oracle.run(network, images, 5)
    run = FileResults("random", evaluate(result, network), result, network)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), run, labels=None, classes=None)
        rates, thresholds = read_csv(Path(folder) / "firing_rates.csv"), read_csv(Path(folder) / "thresholds.csv")
    expected = [
        (layer.name, timesteps, channel, fired[:, :timesteps, channel].mean())
        for layer, fired in zip(network.layers, spikes, strict=False)
        for timesteps in (1, 2, 4, 5)
        for channel in range(fired.shape[2])
    ]
    keys = [(row["layer"], int(row["timesteps"]), int(row["channel"])) for row in rates]
    assert keys == [row[:3] for row in expected]
    assert [float(row["firing_rate"]) for row in rates] == pytest.approx([row[3] for row in expected], rel=1e-12)
    numbers = [
        (layer.name, channel, neuron.threshold[channel], layer.scale[channel], neuron.initial_potential[channel])
        for layer in network.layers
        if (neuron := layer.neuron) is not None
        for channel in range(len(layer.scale))
    ]
    assert [
        (row["layer"], int(row["channel"]), int(row["threshold"]), float(row["scale"]), int(row["initial_potential"]))
        for row in thresholds
    ] == numbers
    for row in thresholds:
        # In `random_network` integer x scale is the value before rounding.
        assert float(row["real_threshold"]) == int(row["threshold"]) * float(row["scale"])


def test_a_channel_that_never_fires_has_no_real_threshold(tmp_path: Path) -> None:
    run = entry([20])
    layer = run.network.layers[0]
    assert layer.neuron is not None
    silent = replace(
        layer,
        neuron=replace(layer.neuron, threshold=np.array([5, 131072, 5, 5])),
        balanced=IntegrateAndFire(np.array([5.1, np.inf, 5, 4.9]), np.ones(4), np.zeros(4)),
    )
    write(tmp_path, run._replace(network=replace(run.network, layers=(silent, run.network.layers[1]))))
    rows = read_csv(tmp_path / "thresholds.csv")
    assert [row["real_threshold"] for row in rows] == ["5.1", "", "5.0", "4.9"]
    assert [row["threshold"] for row in rows] == ["5", "131072", "5", "5"]


def test_without_pictures(tmp_path: Path) -> None:
    paths = write(tmp_path, entry([20]))
    assert [path.name for path in paths] == [
        "accuracy.csv",
        "energy.csv",
        "firing_rates.csv",
        "thresholds.csv",
        "result.json",
        "predictions.csv",
        "manifest.json",
    ]


def test_a_failure_while_writing_does_not_leave_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, content: bytes) -> None:
        if path.name == "predictions.csv":
            raise InputError("cannot be written (No space left on device)", where=path)
        path.write_bytes(content)

    monkeypatch.setattr(run_folder, "write_atomically", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write(tmp_path, entry([20]))
    assert list(tmp_path.iterdir()) == []


def test_two_files_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write(tmp_path, entry([20]), entry([30]))
    assert caught.value.where == "files"
    assert "model" in caught.value.found


def test_class_names_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        write(tmp_path, entry([20]), classes=("a", "b"))
    assert caught.value.where == "model"
    assert "3 classes" in caught.value.found
    assert "2 class names" in caught.value.found
    assert list(tmp_path.iterdir()) == []


def test_a_named_run_folder_is_the_folder_itself(tmp_path: Path) -> None:
    for name in ("new", "parent/new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with run_folder.run_folder(tmp_path / name, "unused") as folder:
            assert folder == tmp_path / name
            assert list(folder.iterdir()) == []


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with run_folder.run_folder(tmp_path / "new", "unused") as folder:
        write(folder, entry([20]))
        with pytest.raises(InputError, match="not empty"), run_folder.run_folder(folder, "unused"):
            pytest.fail("the run has begun")
        # Begun at the same time.
        with pytest.raises(InputError, match="not empty"):
            write(folder, entry([20]))


def test_run_folders_without_a_name_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "dated_name", lambda name: f"{name}-20260131T120000Z")
    folders = []
    for _ in range(3):
        with run_folder.run_folder(None, "digits-ref") as folder:
            folders.append(folder.as_posix())
    first = "runs/digits-ref-20260131T120000Z"
    assert folders == [first, f"{first}-2", f"{first}-3"]


def test_a_folder_that_is_not_empty_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError) as caught, run_folder.run_folder(tmp_path, "unused"):
        pytest.fail("the run has begun")
    assert (caught.value.where, caught.value.found) == (
        str(tmp_path),
        "exists already and is not empty; nothing was changed",
    )
    assert "`output`" in caught.value.hint
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_folder_that_cannot_be_created(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created") as written:
        write(tmp_path / name, entry([20]))
    with (
        pytest.raises(InputError, match="cannot be created") as opened,
        run_folder.run_folder(tmp_path / name, "unused"),
    ):
        pytest.fail("the run has begun")
    for caught in (written, opened):
        assert caught.value.where == str(tmp_path / name)
        assert "`output`" in caught.value.hint


def test_a_read_only_folder_is_detected_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    with pytest.raises(InputError, match="Permission denied"), run_folder.run_folder(tmp_path, "unused"):
        pytest.fail("the run has begun")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_run_that_fails_removes_its_empty_folders(tmp_path: Path, error: type[BaseException]) -> None:
    def begin(name: str, other: str | None) -> None:
        with run_folder.run_folder(tmp_path / name, "unused") as folder:
            assert folder.is_dir()
            if other is not None:
                (tmp_path / other).write_text("of another program")
            raise error

    def fail(name: str, other: str | None = None) -> list[str]:
        with pytest.raises(error):
            begin(name, other)
        return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))

    (tmp_path / "kept").mkdir()
    assert fail("new") == ["kept"]
    assert fail("far/below/new") == ["kept"]
    assert fail("kept") == ["kept"]
    assert fail("kept/new") == ["kept"]
    assert fail("far/new", other="far/file") == ["far", "far/file", "kept"]
    assert fail("last", other="last/file") == ["far", "far/file", "kept", "last", "last/file"]


def test_manifest_names_files_without_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "VERSIONED_PACKAGES", ("numpy", "a-package-that-does-not-exist"))
    model = tmp_path / "model.net"
    command_line = [
        "/usr/lib/python3/site-packages/loihi_convert/__main__.py",
        "run",
        str(model),
        "../other.net",
        f"--output={tmp_path}/runs",
        f"-o{tmp_path}/runs/",
        "-oruns/mine",
        "--classes",
        "T-shirt/top,Trouser",
        "--arch=nets:make('a/b')",
        "-T",
        "1,2,4",
        "--data=digits",
        "--slurm",
        "account=lab/me,partition=p",
    ]
    found = new_manifest(
        network="small",
        data="digits",
        data_fingerprint="c0ffee",
        backend="ref",
        files=[ReadFile(name="model.net", sha256="c0de")],
        command_line=command_line,
        seed=3,
    )
    assert found["files"] == [{"name": "model.net", "sha256": "c0de"}]
    assert found["command_line"] == [
        "loihi-convert",
        "run",
        "model.net",
        "other.net",
        "--output=runs",
        "-oruns/",
        "-omine",
        "--classes",
        "T-shirt/top,Trouser",
        "--arch=nets:make('a/b')",
        "-T",
        "1,2,4",
        "--data=digits",
        "--slurm",
        "account=lab/me,partition=p",
    ]
    assert found["packages"] == {"numpy": np.__version__, "a-package-that-does-not-exist": None}
    assert (found["network"], found["data"], found["backend"], found["seed"]) == ("small", "digits", "ref", 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["utc_time"])
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpu_count"] >= 1
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.parametrize("module", ["report.run_tables", "report.figure", "runs.run_folder"])
def test_importing_the_reports_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, loihi_convert.{module}; "
        "print(*sorted({'matplotlib', 'rich', 'scipy', 'torch'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == ""
