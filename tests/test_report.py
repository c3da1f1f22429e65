"""A report shows the values of the run folders, escapes their texts, and loads nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.evaluations import entry
from support.run_folders import CLASSES, write_runs
from typer.testing import CliRunner

from loihi_convert import cli
from loihi_convert.chip.energy import CONSTANTS
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.files import sha256
from loihi_convert.metrics.regression import Error, Errors, Regression, RegressionPoint
from loihi_convert.report import build
from loihi_convert.report.axes import Axes, Mark, Series
from loihi_convert.report.chart import Chart, outside
from loihi_convert.report.entries import most_complete_of
from loihi_convert.report.page import Cards, Facts, Pictures
from loihi_convert.report.table import percent, quantity, quantity_range
from loihi_convert.runs.columns import FileResults
from loihi_convert.runs.run_folder import Manifest, ReadFile, new_manifest, read_run

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Parsed(HTMLParser):
    """The elements and texts of a page; fails if a tag is closed that is not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if text.strip():
            self.texts.append((tuple(self.open), text.strip()))

    def within(self, tag: str) -> list[str]:
        return [text for path, text in self.texts if tag in path]


def write(tmp_path: Path, *folders: Path) -> tuple[Parsed, str]:
    written = build.write_report(folders, tmp_path / "report.html")
    return Parsed(written.html.read_text()), written.markdown.read_text()


def test_the_figures_of_one_run(tmp_path: Path) -> None:
    """Page and Markdown contain the values of the run folder, rounded as in the tables of `run`."""
    folder = write_runs(tmp_path, entry([20, 150, 190, 199], exit_leads=[4, 5, 7, 9]))
    page, text = write(tmp_path, folder)
    with (folder / "accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = page.within("td") + page.within("tbody")
    for row in rows:
        accuracy = f"{100 * float(row['accuracy']):.2f}"
        assert accuracy in cells
        line = next(line for line in text.splitlines() if line.startswith(f"| {row['timesteps']} | "))
        interval = f"{100 * float(row['accuracy_low']):.2f}-{100 * float(row['accuracy_high']):.2f}"
        loss = f"{float(row['conversion_loss_points']):.2f}"
        assert line.split(" | ")[1:3] + line.split(" | ")[5:6] == [f"{accuracy} ({interval})", loss, "99.50"]
    card = page.within("article")
    assert card[:4] == ["model", "mnist, 200 images", "99.50 %", "accuracy at T = 4"]
    assert dict(zip(card[4::2], card[5::2], strict=True)) == {
        "95 % interval": "97.22-99.91",
        "CNN": "99.50 %",
        "loss": "0.00 points",
        "float SNN": "100.00 %",
        "synaptic operations per image": "24.0",
        "spikes per image": "8.0",
        "early exit": "average T 2.00, accuracy 75.00 %",
    }
    early = next(line for line in text.splitlines() if line.startswith("| 4 | 5 |"))
    assert early.split(" | ")[2:6] == ["2.00", "2, 2", "99.50", "75.00"]
    assert "some.net" in page.within("th")
    assert sha256(tmp_path / "some.net") in page.within("td")
    assert "loihi-convert run" in page.within("dd")


def test_rates_and_thresholds_of_channels(tmp_path: Path) -> None:
    page, text = write(tmp_path, write_runs(tmp_path, entry([20, 150, 190, 199])))
    assert "| 1 | 25.00 | 5 | 5 | 0 |" in text
    assert "| 3 | 100.00 | 5 | 5 | 0 |" in text
    assert "| first.conv | 4 | 50.00 | 0.00..100.00 | 1 | 5 | 600 | 4 |" not in text
    assert "| first.conv | 4 | 50.00 | 0.00..100.00 | 1 | 5 |  | 4 |" in text
    assert {"model, T = 4, channel 1: 25.00 %", "model, for T = 4, channel 1: 5"} < set(page.within("title"))


def test_the_confusion_matrix_is_that_of_the_predictions(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20, 150, 190]))
    with (folder / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["timesteps"] == "3"]
    counts = [
        [sum((row["label"], row["class"]) == (str(i), str(k)) for row in rows) for k in range(3)] for i in range(3)
    ]
    _, text = write(tmp_path, folder)
    for name, row in zip(CLASSES, counts, strict=True):
        assert f"| {name} | {' | '.join(map(str, row))} |" in text
    assert "10 of 200 images wrong" in text


@pytest.mark.slow
def test_several_runs_are_compared_with_the_paper(tmp_path: Path) -> None:
    folders = [
        write_runs(tmp_path, entry([180], name="model-T1", balanced=1)),
        write_runs(tmp_path, entry([1, 2, 3, 196], name="model-T4", balanced=4), entry([1, 2, 3, 190], name="other")),
    ]
    page, text = write(tmp_path, *folders)
    ours = next(line for line in text.splitlines() if line.startswith("| ours: model |"))
    # CNN, T = 1, 4, 8, 16, 32, 64.
    assert ours == "| ours: model | 99.50 | 90.00 | 98.00 |  |  |  |  |"
    assert "| paper: \N{GREEK SMALL LETTER ALPHA} = 1 | 99.31 |  | 86.18 | 98.98 | 99.25 | 99.30 | 99.33 |" in text
    assert "| paper: best \N{GREEK SMALL LETTER ALPHA} | 99.31 |  | 99.14 | 99.20 |" in text
    assert "the results here are for 200." in text
    assert [heading for heading in page.within("article") if heading in ("model-T1", "model-T4", "other")]
    assert page.within("h1") == ["3 spiking networks on mnist"]


@pytest.mark.parametrize(("files", "cards"), [(8, 8), (9, 0)])
def test_many_files_have_a_table_and_no_cards(tmp_path: Path, files: int, cards: int) -> None:
    runs = [entry([180], name=f"net{index}", balanced=1) for index in range(files)]
    page, text = write(tmp_path, write_runs(tmp_path, *runs))
    assert len([heading for heading in page.within("article") if heading.startswith("net")]) == cards
    assert sum(line.startswith("| net") and " | 90.00 (" in line for line in text.splitlines()) == files


@pytest.mark.slow
def test_runs_of_different_data_are_shown_separately(tmp_path: Path) -> None:
    folders = [
        write_runs(tmp_path, entry([180], name="a"), data="mnist"),
        write_runs(tmp_path, entry([180], name="b"), data="cifar10"),
    ]
    page, text = write(tmp_path, *folders)
    assert page.within("h2")[1:3] == ["Accuracy and latency: mnist", "Accuracy and latency: cifar10"]
    assert "do not compare their accuracies" in text
    assert "VGG-16" not in text
    labels = [
        attributes["aria-label"] or "" for tag, attributes in page.elements if tag == "svg" and "role" in attributes
    ]
    assert all(labels)


@pytest.mark.parametrize(
    ("fingerprint", "image_count", "names"),
    [
        ("c0ffee", 200, []),
        ("c0ffee", 30, ["test.npz, 200 images", "test.npz, 30 images"]),
        ("0decaf0123", 200, ["test.npz (fingerprint c0ffee)", "test.npz (fingerprint 0decaf01)"]),
    ],
    ids=["same images", "fewer images", "other images of the same name"],
)
def test_runs_on_different_images_are_shown_separately(
    tmp_path: Path, fingerprint: str, image_count: int, names: list[str]
) -> None:
    """`write_runs` records the fingerprint c0ffee and 200 images."""
    one, other = (
        read_run(write_runs(tmp_path, entry([1] * (t - 1) + [right], name=f"m-T{t}", balanced=t), data="test.npz"))
        for t, right in ((1, 150), (4, 196))
    )
    changed = replace(
        other,
        manifest=other.manifest.model_copy(update={"data_fingerprint": fingerprint}),
        evaluations={"m-T4": other.evaluations["m-T4"].model_copy(update={"image_count": image_count})},
    )
    page = build.report([one, changed])
    assert [text.split(": ")[0] for text in page.verdict if names] == names
    assert len(page.verdict) == len(names or [1])
    assert [s.title for s in page.sections if s.name.startswith("accuracy")] == (
        [f"Accuracy and latency: {name}" for name in names] or ["Accuracy and latency"]
    )
    charts = [block for section in page.sections for block in section.blocks if isinstance(block, Chart)]
    assert any(one.label == "m, by T" for chart in charts for one in chart.series) == (not names)
    assert ("do not compare" in page.subtitle) == bool(names)


def test_a_run_that_ended_before_its_t_is_not_compared_with_the_paper(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20, 150]), entry([1, 2, 3, 180], name="whole"))
    _, text = write(tmp_path, folder)
    assert "| ours: whole |" in text
    assert "| ours: model |" not in text
    assert "Left out, because the run ended before the T that the file is made for: model." in text


def test_without_labels(tmp_path: Path) -> None:
    runs = (entry([20, 198], labels=None), entry([20, 198], name="alone", labels=None, has_cnn=False, has_float=False))
    page, text = write(tmp_path, write_runs(tmp_path, *runs, labels=None))
    card = page.within("article")
    assert card[:4] == ["model", "mnist, 200 images", "99.00 %", "same class as the CNN at T = 2; no labels"]
    assert "no labels, no CNN; T = 2" in card
    assert "Confusion" not in page.within("h2")
    assert "ours:" not in text


def test_errors_to_targets_and_to_the_cnn_are_not_compared(tmp_path: Path) -> None:
    """Targets are known only for the first file, which has an RMSE of 1 to them and of 5 to the CNN."""

    def errors(rmse: float) -> Errors:
        error = Error(rmse=rmse, r2=0.5)
        return Errors(mean=error, outputs=(error,))

    stored = read_run(write_runs(tmp_path, *(entry([20] * t, name=f"m-T{t}", balanced=t) for t in (1, 2))))
    changed = {}
    for (name, evaluation), to_targets, to_cnn in zip(
        stored.evaluations.items(), (errors(1), None), (5, 4), strict=True
    ):
        points = tuple(
            RegressionPoint(
                timesteps=point.timesteps, to_targets=to_targets, to_cnn=errors(to_cnn), float_to_targets=None
            )
            for point in evaluation.points
        )
        found = Regression(output_names=("x",), cnn=to_targets, points=points)
        changed[name] = evaluation.model_copy(update={"regression": found})
    page = build.report([replace(stored, evaluations=changed)])
    charts = [block for section in page.sections for block in section.blocks if isinstance(block, Chart)]
    (table,) = (chart.csv for chart in charts if chart.title == "Error at each file's own T")
    rows = list(csv.reader(table.splitlines()))
    assert rows[0][:3] == ["series", "latency T, time steps", "RMSE to the CNN's outputs"]
    assert [row[:3] for row in rows[1:]] == [["m-T1", "1", "5"], ["m-T2", "2", "4"]]
    assert page.verdict == (
        "T = 2 reaches an RMSE to the CNN's outputs of 4, the smallest of these files (200 images).",
    )


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>|`*"
    run = entry([20, 150, 190], name=name)
    folder = write_runs(tmp_path, run, data='"><img src=x onerror=alert(1)>', classes=("<b>", "&amp;", "[a](b)"))
    page, text = write(tmp_path, folder)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "img" not in [tag for tag, _ in page.elements]
    assert name in page.within("article")
    assert {"<b>", "&amp;", "[a](b)"} <= set(page.within("th"))
    assert "<script>" not in re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    assert r"\<script\>alert(1)\</script\>\|\`\*" in text
    assert r"| \[a\](b) |" in text


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20, 150, 190, 199], exit_leads=[4, 5, 7, 9]))
    written = build.write_report([folder], tmp_path / "report.html")
    source = written.html.read_text()
    assert not re.search(r"https?://|@import|url\((?!#)", source)
    page = Parsed(source)
    loads = {value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")}
    assert all(value is not None and value.startswith(("#", "data:,")) for value in loads)
    sections = {attributes["id"] for tag, attributes in page.elements if tag == "section"}
    assert {value for value in loads if value and value.startswith("#")} == {f"#{name}" for name in sections}


def test_the_same_folders_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20, 150, 190]))
    first = build.write_report([folder], tmp_path / "one.html")
    second = build.write_report([folder], tmp_path / "two.html")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_file_of_another_tool_has_firing_rates_and_no_thresholds(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20, 150, 190]))
    (folder / "thresholds.csv").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["provenance"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    page, text = write(tmp_path, folder)
    assert f"Thresholds of channels are missing for {folder.name}: " in text
    assert "One file run on 200 images" in text
    assert "first.conv: firing rate" in page.within("strong")


def with_neurons(*kinds: tuple[str, str, str | None, str | None]) -> dict[str, object]:
    """A manifest's provenance of files by name: reset, thresholds and target as `export` records them."""
    manifest = new_manifest(
        network="several",
        data="mnist",
        data_fingerprint="c0ffee",
        backend="ref",
        files=[],
        command_line=["loihi-convert", "run"],
        seed=None,
    )
    provenance = {}
    for name, reset, thresholds, target in kinds:
        recorded = {"thresholds": thresholds, "target": target}
        quantize = {key: value for key, value in recorded.items() if value is not None}
        provenance[name] = {"balance": {"reset": reset}, "quantize": quantize}
    return {**manifest, "provenance": provenance}


@pytest.mark.slow
def test_kinds_of_neurons_are_compared(tmp_path: Path) -> None:
    files = {
        "soft-T2": (190, 2),
        "soft-T4": (196, 4),
        "circuit": (196, 4),
        "array": (194, 4),
        "scalar": (192, 4),
        "again": (191, 4),
    }
    runs = [entry([1] * (t - 1) + [right], name=name, balanced=t) for name, (right, t) in files.items()]
    manifest = with_neurons(
        # The default, one threshold per channel, is not recorded.
        ("soft-T2", "soft", None, None),
        ("soft-T4", "soft", "channel", "lava"),
        ("circuit", "soft", "channel", "loihi2"),
        ("array", "hard", "channel", "lava"),
        ("scalar", "hard", "scalar", "lava"),
        ("again", "hard", "scalar", "lava"),
    )
    page, text = write(tmp_path, write_runs(tmp_path, *runs, manifest=manifest))
    assert {f"mnist, 200 images, {kind} neurons" for kind in ("soft", "hard scalar")} <= set(page.within("article"))
    assert "| ours: soft | 99.50 | 95.00 | 98.00 |" in text
    # A file of the circuit may run with other neurons.
    (tmp_path / "own").mkdir()
    page, _ = write(tmp_path / "own", write_runs(tmp_path / "own", *runs, manifest={**manifest, "neuron": "own"}))
    assert "mnist, 200 images, stock circuit neurons" not in page.within("article")


@pytest.mark.slow
def test_files_of_one_name_and_different_neurons_are_different_curves(tmp_path: Path) -> None:
    folders = []
    for reset, right, t in (("soft", 196, 4), ("hard", 192, 2)):
        (tmp_path / reset).mkdir()
        run = entry([1] * (t - 1) + [right], name=f"model-T{t}", balanced=t)
        manifest = with_neurons((f"model-T{t}", reset, "channel", "lava"))
        folders.append(write_runs(tmp_path / reset, run, manifest=manifest))
    _, text = write(tmp_path, *folders)
    # T = 2 and 4, then the paper's.
    assert "| ours: model-T4 | 99.50 |  | 98.00 |" in text
    assert "| ours: model-T2 | 99.50 | 96.00 |  |" in text


@pytest.mark.slow
def test_every_file_of_every_run_has_a_unique_label(tmp_path: Path) -> None:
    """One file name begins with another one, and two folders in different places have the same name."""
    folders = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        folders.append(write_runs(tmp_path / place, entry([180], name="dil-T16"), entry([170], name="dil-T1")))
    page, _ = write(tmp_path, *folders)
    labels = [text for text in page.within("article") if text.startswith("dil")]
    one = ["dil-T16-ref-1", "dil-T1, dil-T16-ref-1"]
    assert sorted(labels) == sorted([*one, *(f"{label}, 2" for label in one)])


def test_estimates_are_shown_with_their_limits_and_every_constant(tmp_path: Path) -> None:
    run, other = entry([20, 150, 190, 199]), entry([20, 150], name="other", balanced=2)
    page, text = write(tmp_path, write_runs(tmp_path, run, other))
    assert "Energy and time, estimated" in page.within("h2")
    assert run.evaluation.energy is not None
    assert any(run.evaluation.energy.boundary in text for text in page.within("caption"))
    own = run.evaluation.energy.estimates[-1]
    # 2 spikes a step reach 6 synapses; 4 + 3 neurons.
    line = next(line for line in text.splitlines() if line.startswith("| model | 4 | 24.0 | 28.0 |"))
    assert quantity_range(own.loihi1_joules, "J") in line
    assert quantity_range(own.loihi1_seconds, "s") in line
    for constant in CONSTANTS:
        assert quantity(constant.value, constant.unit) in page.within("td")
        assert any(constant.source in cell for cell in page.within("td"))


def test_a_channel_that_never_fires_beside_one_threshold_for_the_layer(tmp_path: Path) -> None:
    """Its integer is the layer's threshold; it can be recognized by its missing real threshold."""
    folder = write_runs(tmp_path, entry([20, 150, 190, 199]))
    content = (folder / "thresholds.csv").read_text()
    lines = [content.splitlines()[0]] + [
        f"model,first.conv,{channel},5,{real},1.0,0" for channel, real in enumerate(["2.5", "", "2.5", "2.5"])
    ]
    (folder / "thresholds.csv").write_text("\n".join(lines) + "\n")
    _, text = write(tmp_path, folder)
    assert "| 1 | 25.00 | 5 | never fires | 0 |" in text
    assert "| 3 | 100.00 | 5 | 2.5 | 0 |" in text


def test_nothing_is_overwritten_without_the_option(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20]))
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(InputError, match=r"report\.md: exists already; nothing was changed"):
        build.write_report([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    build.write_report([folder], tmp_path / "report.html", overwrite=True)
    assert (tmp_path / "report.md").read_text().startswith("# model on mnist\n")


def test_the_name_of_a_run_folder_need_not_be_utf_8(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20]))
    written = build.write_report([folder.rename(tmp_path / os.fsdecode(b"n\xe9t"))], tmp_path / "report.html")
    for path in written:
        assert "udce9t" in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_damaged_run_does_not_leave_a_page(tmp_path: Path) -> None:
    whole, damaged = write_runs(tmp_path, entry([20])), write_runs(tmp_path, entry([20], name="other"))
    (damaged / "result.json").write_text("{")
    with pytest.raises(InputError) as caught:
        build.write_report([whole, damaged], tmp_path / "report.html")
    assert caught.value.where.endswith("other-ref-1/result.json")
    assert "Invalid JSON" in caught.value.found
    assert not list(tmp_path.glob("report.*"))


def test_the_output_is_html(tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    with pytest.raises(UsageError) as caught:
        build.write_report([write_runs(tmp_path, entry([20]))], output)
    assert (caught.value.where, caught.value.found) == ("output", f"found {output}")
    assert ".html" in caught.value.expected


def manifest_of(file: Path, utc_time: str, data: str = "mnist") -> dict[str, object]:
    """Return the manifest of a run of ``file`` at this time."""
    made = new_manifest(
        network="a",
        data=data,
        data_fingerprint="",
        backend="ref",
        files=[ReadFile(name=file.name, sha256=sha256(file))],
        command_line=["run"],
        seed=None,
    )
    return {**made, "utc_time": utc_time}


def runs_of_one_file(tmp_path: Path, runs: Sequence[tuple[str, int, FileResults]]) -> list[Path]:
    """Run folders ``run-<place>`` of one file on one data set, each with its hour."""
    file = tmp_path / "model-T4.net"
    file.write_bytes(b"one")
    folders = []
    for place, hour, run in runs:
        (tmp_path / place).mkdir()
        manifest = manifest_of(file, f"2026-11-26T{hour}:00:00+00:00")
        folders.append(write_runs(tmp_path / place, run, manifest=manifest).rename(tmp_path / f"run-{place}"))
    return folders


def test_the_newest_of_equally_complete_runs_is_shown_and_the_others_are_named(tmp_path: Path) -> None:
    runs = (("old", 10, 150), ("new", 12, 196), ("between", 11, 180))
    folders = runs_of_one_file(
        tmp_path, [(place, hour, entry([1, 2, 3, right], name="model-T4")) for place, hour, right in runs]
    )
    page, text = write(tmp_path, *folders)
    assert [title for title in page.within("article") if title.startswith("model-T4")] == ["model-T4"]
    assert "98.00 %" in page.within("article")
    said = next(line for line in text.splitlines() if line.startswith("Left out"))
    assert said.endswith(
        ": model-T4 in run-old (2026-11-26 10:00 UTC); model-T4 in run-between (2026-11-26 11:00 UTC)."
    )


def of_images(run: FileResults, image_count: int) -> FileResults:
    return run._replace(evaluation=run.evaluation.model_copy(update={"image_count": image_count}))


FULL = entry([20, 150, 190, 196], exit_leads=[4, 5, 7, 9], name="model-T4")
LESS_COMPLETE = {
    "without labels": entry([20, 150, 190, 196], exit_leads=[4, 5, 7, 9], name="model-T4", labels=None),
    "ended before the T of the file": entry([20, 150], exit_leads=[4, 9], name="model-T4"),
    "fewer images": of_images(FULL, 199),
    "without the CNN": entry([20, 150, 190, 196], exit_leads=[4, 5, 7, 9], name="model-T4", has_cnn=False),
    "without early exit": entry([20, 150, 190, 196], name="model-T4"),
}


@pytest.mark.parametrize("newer", LESS_COMPLETE.values(), ids=list(LESS_COMPLETE))
def test_a_newer_run_that_is_less_complete_is_left_out(tmp_path: Path, newer: FileResults) -> None:
    folders = runs_of_one_file(tmp_path, [("full", 10, FULL)])
    newest = manifest_of(tmp_path / "model-T4.net", "2026-11-26T12:00:00+00:00")
    stored = read_run(folders[0])
    other = replace(
        stored, name="new", manifest=Manifest.model_validate(newest), evaluations={"model-T4": newer.evaluation}
    )
    for order in ([stored, other], [other, stored]):
        shown, left_out = most_complete_of(order)
        assert [run.name for run in shown] == ["run-full"]
        assert [(file, run.name) for file, run in left_out] == [("model-T4", "new")]


@pytest.mark.parametrize("change", [{"leak": True}, {"neuron": "own"}, {"data_fingerprint": "other images"}])
def test_runs_with_other_options_or_images_are_both_shown(tmp_path: Path, change: dict[str, object]) -> None:
    stored = read_run(runs_of_one_file(tmp_path, [("one", 10, FULL)])[0])
    other = replace(stored, name="other", manifest=stored.manifest.model_copy(update=change))
    shown, left_out = most_complete_of([stored, other])
    assert ([run.name for run in shown], left_out) == (["run-one", "other"], [])


def test_a_file_that_changed_is_another_file(tmp_path: Path) -> None:
    folders = []
    for content in (b"one", b"two"):
        file = tmp_path / "model-T4.net"
        file.write_bytes(content)
        place = tmp_path / content.decode()
        place.mkdir()
        manifest = manifest_of(file, "2026-11-26T10:00:00+00:00")
        folders.append(write_runs(place, entry([180], name="model-T4"), manifest=manifest))
    page, text = write(tmp_path, *folders)
    assert len([title for title in page.within("article") if title.startswith("model-T4")]) == 2
    assert "Left out" not in text


def verdicts(tmp_path: Path, *folders: Path) -> list[str]:
    page, _ = write(tmp_path, *folders)
    paragraphs = [text for path, text in page.texts if path[-2:] == ("header", "p")]
    return paragraphs[:-1]


def test_the_verdict_names_the_file_that_loses_little_at_the_least_work(tmp_path: Path) -> None:
    """At T the work is 6 T synaptic operations; the CNN has 99.5 %."""
    runs = [entry([1] * (t - 1) + [right], name=f"m-T{t}", balanced=t) for t, right in ((1, 150), (4, 197), (32, 197))]
    assert verdicts(tmp_path, write_runs(tmp_path, *runs)) == [
        "T = 4 loses 1.00 points at 1/8 of the work of T = 32, which loses 1.00 points (200 images)."
    ]


def test_work_of_graded_and_binary_spikes_is_not_compared(tmp_path: Path) -> None:
    """The graded file has less work, and is 0.5 points less accurate."""
    binary, graded = (
        read_run(write_runs(tmp_path, entry([1] * (t - 1) + [right], name=name, balanced=t)))
        for name, right, t in (("binary", 197, 4), ("graded", 196, 1))
    )
    changed = graded.evaluations["graded"].model_copy(update={"is_graded": True})
    page = build.report([binary, replace(graded, evaluations={"graded": changed})])
    (verdict,) = page.verdict
    assert verdict.startswith("binary (T = 4) is the most accurate: 98.50 %")
    assert "work" not in verdict
    charts = [block for section in page.sections for block in section.blocks if isinstance(block, Chart)]
    work = [[one.label for one in chart.series] for chart in charts if chart.title == "What accuracy costs"]
    assert work == [["binary"]]
    per_t = next(chart.caption for chart in charts if chart.caption.startswith("One file per T"))
    assert "graded spikes: the output after one step of each layer" in per_t
    # The output of graded spikes comes once: there is no run to stop early.
    anytime = [[one.label for one in chart.series] for chart in charts if "stop the run early" in chart.title]
    assert anytime == [["binary", "float SNN"]]


def test_a_report_on_graded_spikes_alone(tmp_path: Path) -> None:
    stored = read_run(write_runs(tmp_path, entry([196], balanced=1)))
    graded = {"model": stored.evaluations["model"].model_copy(update={"is_graded": True})}
    page = build.report([replace(stored, evaluations=graded)])
    charts = [block.title for section in page.sections for block in section.blocks if isinstance(block, Chart)]
    assert "If you stop the run early" not in charts
    (cards,) = (block for section in page.sections for block in section.blocks if isinstance(block, Cards))
    assert "messages per image" in dict(cards.cards[0].facts)


def test_the_verdict_of_the_most_accurate_file(tmp_path: Path) -> None:
    runs = [entry([1] * (t - 1) + [right], name=f"m-T{t}", balanced=t) for t, right in ((1, 150), (4, 200))]
    assert verdicts(tmp_path, write_runs(tmp_path, *runs)) == [
        "T = 4 is the most accurate: 100.00 %, 0.50 points above the CNN (200 images)."
    ]


def test_only_all_is_a_hundred_percent() -> None:
    assert [percent(part / 50_000) for part in (50_000, 49_999, 49_997)] == ["100.00", ">99.99", "99.99"]


@pytest.mark.slow
def test_the_verdict_without_labels_and_of_several_data_sets(tmp_path: Path) -> None:
    folders = [
        write_runs(tmp_path, entry([20, 198], name="a", labels=None), labels=None),
        write_runs(tmp_path, entry([20, 198], name="b", has_cnn=False), data="cifar10"),
    ]
    assert verdicts(tmp_path, *folders) == [
        "mnist: T = 2 gives the CNN's class for 99.00 % of 200 images without labels.",
        "cifar10: T = 2 reaches 99.00 % (200 images).",
    ]


def test_every_file_has_one_colour_on_the_whole_page(tmp_path: Path) -> None:
    """On its card and on every series with its name; no other file has that colour."""
    runs = [entry([1] * (t - 1) + [190], name=f"m-T{t}", balanced=t, exit_leads=[4] * (t - 1) + [9]) for t in (2, 3, 4)]
    folder = write_runs(tmp_path, *runs)
    source = build.write_report([folder], tmp_path / "report.html").html.read_text()
    blocks = [block for section in build.report([read_run(folder)]).sections for block in section.blocks]
    charts = [block for block in blocks if isinstance(block, Chart)]
    charts += [chart for block in blocks if isinstance(block, Pictures) for chart in block.charts]
    for index, run in enumerate(runs):
        assert f'<i class="dot" style="--c: var(--c{index})"></i>{run.name}' in source
        styles = [one.style for chart in charts for one in chart.series if one.label.split(",")[0] == run.name]
        assert len(styles) >= 4
        assert set(styles) == {index}


def test_points_far_below_the_others_are_outside_the_frame_and_named(tmp_path: Path) -> None:
    """The paper has 86.18 % at T = 4."""
    runs = [entry([1] * (t - 1) + [198], name=f"m-T{t}", balanced=t) for t in (4, 8)]
    page, _ = write(tmp_path, write_runs(tmp_path, *runs))
    caption = next(text for text in page.within("figcaption") if text.startswith("One file per T"))
    assert caption.endswith("Outside the frame: paper: \N{GREEK SMALL LETTER ALPHA} = 1, T = 4: 86.18 %.")
    (first, *_) = [text for path, text in page.texts if path[-1] == "text"]
    assert first == "4"


def test_many_points_outside_the_frame_are_counted() -> None:
    axes = Axes("T", "accuracy, %", left=1, right=8, bottom=90, top=100, ticks=())
    marks = tuple(Mark(t, 80 + t, str(t)) for t in (1, 2, 4, 5))
    assert outside([Series("m", 0, marks)], axes) == "Outside the frame: 4 points (81 to 85); its CSV has them."


def test_each_chart_has_its_numbers(tmp_path: Path) -> None:
    page, _ = write(tmp_path, write_runs(tmp_path, entry([20, 150, 190, 199])))
    tables = [attributes["data-csv"] or "" for tag, attributes in page.elements if tag == "figure"]
    assert all(tables)
    anytime = next(table for table in tables if "float SNN" in table)
    rows = list(csv.reader(anytime.splitlines()))
    assert rows[0] == ["series", "latency T, time steps", "accuracy, %", "interval low", "interval high"]
    assert rows[1][:3] == ["model", "1", "10"]
    assert float(rows[1][3]) < 10 < float(rows[1][4])
    assert ["CNN", "", "99.5", "", ""] in rows


def test_the_command_can_be_pasted(tmp_path: Path) -> None:
    words = ["loihi-convert", "run", "model.net", "-o", "my run", "--arch", "nets:make(classes=10)"]
    folder = write_runs(tmp_path, entry([20]))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "command_line": words}))
    page = build.report([read_run(folder)])
    (facts,) = (block.facts for section in page.sections for block in section.blocks if isinstance(block, Facts))
    assert shlex.split(dict(facts)["command"]) == words


def test_the_verb_says_what_it_wrote(tmp_path: Path) -> None:
    folder, output = write_runs(tmp_path, entry([20])), tmp_path / "page.html"
    done = CliRunner().invoke(cli.app, ["report", str(folder), "-o", str(output)])
    assert (done.exit_code, done.stdout) == (0, f"wrote {output} and {output.with_suffix('.md')}\n")
    done = CliRunner().invoke(cli.app, ["report", str(folder), "-o", str(output), "--overwrite", "--json"])
    assert json.loads(done.stdout) == {"html": str(output), "markdown": str(output.with_suffix(".md"))}


def test_without_a_folder_the_newest_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["report"])
    assert isinstance(done.exception, InputError)
    (tmp_path / "runs").mkdir()
    for index, name in enumerate(("newest", "older")):
        folder = write_runs(tmp_path / "runs", entry([180], name=name))
        os.utime(folder / "manifest.json", (1000 - index, 1000 - index))
    assert CliRunner().invoke(cli.app, ["report"]).exit_code == 0
    assert [path.parent.name for path in tmp_path.rglob("report.*")] == ["newest-ref-1"] * 2


def test_a_report_in_its_run_folder_replaces_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [write_runs(tmp_path, entry([20], name=name)).name for name in ("one", "two")]
    said = "wrote one-ref-1/report.html and one-ref-1/report.md\n"
    for _ in range(2):
        done = CliRunner().invoke(cli.app, ["report", folders[0]])
        assert (done.exit_code, done.stdout) == (0, said)
    # A page of the user's own, and a report in a place that others share, are kept.
    Path("one-ref-1", "report.html").write_text("mine")
    assert isinstance(CliRunner().invoke(cli.app, ["report", folders[0]]).exception, InputError)
    assert CliRunner().invoke(cli.app, ["report", *folders]).stdout == "wrote report.html and report.md\n"
    assert isinstance(CliRunner().invoke(cli.app, ["report", *folders]).exception, InputError)
    missing = CliRunner().invoke(cli.app, ["report", "missing"]).exception
    assert isinstance(missing, InputError)
    assert missing.where.startswith("missing")
    assert "report.html" not in missing.where


def test_a_folder_of_runs_means_all_of_them(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("one", "two"):
        write_runs(runs, entry([180], name=name))
    (runs / "unfinished").mkdir()
    output = tmp_path / "page.html"
    done = CliRunner().invoke(cli.app, ["report", str(runs), "-o", str(output)])
    assert done.exit_code == 0
    assert "unfinished" in done.stderr
    assert output.with_suffix(".md").read_text().startswith("# 2 spiking networks on mnist\n")


def test_a_figure_is_written_instead_of_a_page(tmp_path: Path) -> None:
    folder, output = write_runs(tmp_path, entry([20, 197, 198, 199])), tmp_path / "accuracy.pdf"
    done = CliRunner().invoke(cli.app, ["report", str(folder), "--figure", str(output), "--width", "column"])
    assert (done.exit_code, done.stdout) == (0, f"wrote {output}\n")
    assert output.read_bytes().startswith(b"%PDF")
    assert not list(tmp_path.glob("*.html"))
    refused = CliRunner().invoke(cli.app, ["report", str(folder), "--width", "column"])
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.where == "width"


@pytest.mark.slow
def test_reading_runs_imports_nothing_heavy(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20, 150]))
    program = (
        "import sys; from pathlib import Path; from loihi_convert.report import build; "
        f"build.write_report([Path({str(folder)!r})], Path({str(tmp_path / 'report.html')!r})); "
        "print(*sorted({'pyplot', 'rich', 'scipy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
