"""Tables and pictures of README.md, netx_models/ and docs/ equal the output of `tools/pages.py`."""

from __future__ import annotations

import csv
import importlib
import json
import math
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

from loihi_convert.errors import InputError
from loihi_convert.runs.columns import as_csv

ROOT = Path(__file__).parents[1]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("pages")


def test_no_table_or_picture_differs_from_its_source(
    pages: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", "--check"])
    assert (pages.main(), capsys.readouterr().err) == (0, "")


def test_a_table_that_differs_is_named_and_written_again(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs/pictures").mkdir(parents=True)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table headline -->\n| wrong |\n<!-- end of table -->\nafter\n")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "MODELS", tmp_path / "netx_models")
    monkeypatch.setattr(pages, "cards", lambda: CARDS)
    monkeypatch.setattr(pages, "card_page", lambda card: str(card["data"]))
    monkeypatch.setattr(sys, "argv", ["", "--check"])
    assert pages.main() == 5
    assert "README.md: differs from its source; run: python tools/pages.py" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [""])
    assert pages.main() == 0
    assert pages.outdated() == []
    text = readme.read_text()
    assert text.startswith("before\n<!-- table headline -->\n| test accuracy, %")
    assert text.endswith("|\n<!-- end of table -->\nafter\n")
    assert re.search(r"\| \*\*MNIST\*\*, converted +\| 95.00 \| 90.00 ", text)
    assert re.search(r"\| \*\*MNIST\*\*, fine-tuned +\| 95.00 \|       \|", text)
    assert "| wrong |" not in text


def test_a_table_differs_as_soon_as_its_csv_file_does(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One digit is changed in each CSV file of docs/results/; every page that shows it is named."""
    stored = importlib.import_module("stored_results")
    shown = {
        "speed.csv": "benchmarks.md",
        "peers.csv": "benchmarks.md",
        "peers-without-amx.csv": "benchmarks.md",
        "cost.csv": "benchmarks.md",
        "commands.csv": "benchmarks.md",
        "networks.csv": "networks.md",
        "graph-peers.csv": "networks.md",
        "torchvision.csv": "networks.md",
        "nir.csv": "nir.md",
        "graded.csv": "graded-spikes.md",
        "pilotnet.csv": "energy.md",
        "early-exit.csv": "early-exit.md",
        "stock-lava-dl.csv": "stock-lava-dl.md",
        "mlperf-tiny.csv": "mlperf-tiny.md",
    }
    assert {path.name for path in stored.RESULTS.glob("*.csv")} == set(shown)
    for name, page in shown.items():
        folder = tmp_path / name
        shutil.copytree(stored.RESULTS, folder)
        head, *rows = (folder / name).read_text().splitlines()
        changed = rows[-1][::-1]
        digit = next(character for character in changed if character.isdecimal())
        changed = changed.replace(digit, str(9 - int(digit)), 1)[::-1]
        (folder / name).write_text("\n".join([head, *rows[:-1], changed]) + "\n")
        with monkeypatch.context() as patched:
            patched.setattr(stored, "RESULTS", folder)
            # A model card, and the table of its data set, show the row of its file, too.
            cards = {"README.md", "data.md"} if name == "stock-lava-dl.csv" else set()
            assert {path.name for path in pages.outdated()} - cards == {page}


def test_a_table_of_another_conversion_is_named_with_its_command(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands, file = importlib.import_module("paper_tables"), "mnist/paper/table-A2.csv"
    rows = importlib.import_module("stored_results").read_rows(commands.MODELS / file)
    monkeypatch.setattr(pages, "outdated", list)
    monkeypatch.setattr(commands, "MODELS", tmp_path)
    monkeypatch.setattr(commands, "COMMANDS", {file: "table A2 --model mnist"})
    monkeypatch.setattr(sys, "argv", ["", "--check"])
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    for one, code, said in (
        (rows[-1]["conversion"], 0, ("", "")),
        (
            "unknown (commit 1234567)",
            0,
            (f"warning: netx_models/{file}: measured with an unknown (commit 1234567)", ""),
        ),
        ("0" * 12, 5, ("", f"netx_models/{file}: the conversion has changed since; run: loihi-convert reproduce ta")),
    ):
        path.write_bytes(as_csv([*rows[:-1], {**rows[-1], "conversion": one}]))
        assert pages.main() == code
        printed = capsys.readouterr()
        assert (printed.out.startswith(said[0]), printed.err.startswith(said[1])) == (True, True)
        assert (bool(printed.out), bool(printed.err)) == (bool(said[0]), bool(said[1]))


@pytest.mark.parametrize("name", ["peers.csv", "cost.csv"])
def test_rows_that_were_measured_differently_make_no_table(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    stored = importlib.import_module("stored_results")
    shutil.copytree(stored.RESULTS, tmp_path / "results")
    path = tmp_path / "results" / name
    rows = stored.rows_of(name)
    monkeypatch.setattr(stored, "RESULTS", tmp_path / "results")
    path.write_bytes(as_csv([*rows[:-1], {**rows[-1], "commit": "1234567"}]))
    monkeypatch.setattr(sys, "argv", ["", "--check"])
    assert pages.main() == InputError.exit_code
    assert f"commit: {rows[0]['commit'] or 'unknown'}, 1234567" in capsys.readouterr().err
    path.write_bytes(as_csv({**row, "machine": "one", "commit": "1234567"} for row in rows))
    assert pages.main() == 0


def test_the_memory_of_each_number_of_threads_is_shown(pages: ModuleType) -> None:
    rows = importlib.import_module("stored_results").rows_of("cost.csv", network="VGG-16", curve="threads")
    (line,) = (line for line in pages.TABLES["cost-threads"]().splitlines() if line.startswith("| VGG-16"))
    assert [cell.strip().replace(",", "") for cell in line.split("|")[-3:-1]] == [row["peak_mib"] for row in rows]


def test_numbers_in_sentences_are_those_of_the_tables() -> None:
    def losses(file: str, variant: str) -> dict[int, float]:
        with (ROOT / "netx_models/mnist/paper" / file).open(newline="") as source:
            found = [row for row in csv.DictReader(source) if (row["method"], row["variant"]) == ("ngu-lee", variant)]
        return {int(row["timesteps"]): float(row["cnn_accuracy"]) - float(row["accuracy"]) for row in found}

    page = (ROOT / "docs/results/paper.md").read_text()
    assert f"at least {min(losses('table-2.csv', 'literal').values()):.2f} points below this CNN at every T" in page
    recipe = losses("recipe/table-2.csv", "published")
    most = max(loss for steps, loss in recipe.items() if steps >= 8)
    assert f"loses at most {most:.2f} points from T = 8 on, but {recipe[4]:.2f} at T = 4" in page
    for file, variant, steps in (
        ("mnist/paper/few-steps/table-2.csv", "compensated", ("4", "8")),
        ("fashion-mnist/paper/table-3.csv", "literal", ("4", "8", "16")),
    ):
        rows = importlib.import_module("stored_results").read_rows(ROOT / "netx_models" / file)
        found = {(row["method"], row["variant"], row["timesteps"]): row["accuracy"] for row in rows}
        other, own = (
            [found[method, variant, count] for count in steps] for method in ("act-norm-channelwise", "ngu-lee")
        )
        assert all(float(one) > float(two) for one, two in zip(other, own, strict=True))
        assert f"({' / '.join(other)} against {' / '.join(own)})" in page
    card = json.loads((ROOT / "netx_models/cifar10-vgg16/card.json").read_text())
    (four,) = (one for one in card["networks"] if one["timesteps"] == 4)
    assert four["balance"]["method"] == "qcfs"
    assert f"four steps ([{100 * four['test'][-1]['accuracy']:.2f} % of all test images]" in page
    with (ROOT / "netx_models/cifar10-vgg16/paper/figure-11.csv").open(newline="") as source:
        best = {int(row["timesteps"]): row["method"] for row in csv.DictReader(source) if row["variant"] == "best"}
    methods = [method for _, method in sorted(best.items())]
    assert methods == ["qcfs"] * 3 + ["least-squares, corrected"] * 5
    (long,) = (one for one in card["networks"] if one["timesteps"] == 64)
    assert f"two digits: {100 * long['sim']['correct'] / long['sim']['images']:.2f} % of the same 1,000 images" in page
    with (ROOT / "docs/results/commands.csv").open(newline="") as source:
        rows = [row for row in csv.DictReader(source) if not row["command"].startswith("inspect")]
    longer = [float(row["first_seconds"]) - float(row["median_seconds"]) for row in rows]
    page = (ROOT / "docs/results/benchmarks.md").read_text()
    assert f"takes {min(longer):.0f} to {max(longer):.0f} seconds longer, for compilation" in page
    install = (ROOT / "docs/install.md").read_text()
    assert f"for your processor, {min(longer):.0f} to {max(longer):.0f} seconds, and keeps them" in install
    rows_of, readme = importlib.import_module("stored_results").rows_of, (ROOT / "README.md").read_text()
    for name, sentence in (
        ("peers.csv", "`ref` is [{:.0f} to {:.0f} times as fast]"),
        ("peers-without-amx.csv", "and norse ({:.0f} to {:.0f} without AMX)"),
    ):
        rows = rows_of(name, measure="speed_of_ref")
        simulators = ("SpikingJelly", "snnTorch", "sinabs", "norse")
        ratios = [float(row["median"]) for row in rows if row["peer"].split()[0] in simulators]
        assert len(ratios) == 20
        assert sentence.format(math.floor(min(ratios)), max(ratios)) in readme


def test_no_page_of_results_has_a_table_of_measurements_that_is_copied_by_hand() -> None:
    for path in (ROOT / "docs/results").glob("*.md"):
        by_hand = re.sub(r"<!-- table .*?<!-- end of table -->", "", path.read_text(), flags=re.DOTALL)
        rows = [line for line in by_hand.splitlines() if line.startswith("|")]
        assert [row for row in rows if re.search(r"\d\.\d", row)] == [], path.name


def test_every_table_is_on_a_page(pages: ModuleType) -> None:
    text = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))
    assert {name for name in pages.TABLES if f"<!-- table {name} -->" not in text} == set()


def test_columns_of_tables_in_docstrings_are_apart() -> None:
    """No row has a character in the gaps of the table's border, which reStructuredText does not allow."""
    for path in (ROOT / "loihi_convert").rglob("*.py"):
        border = ""
        for line in path.read_text().splitlines():
            if re.fullmatch(r" *=+( +=+)+", line):
                border = line
            elif not line.strip():
                border = ""
            gaps = [place for place, mark in enumerate(border[: len(line)]) if mark == " "]
            assert all(line[place] == " " for place in gaps), f"{path.name}: {line}"


def test_pictures_are_svg_with_a_title(pages: ModuleType) -> None:
    for name, picture in pages.pictures().items():
        root = ElementTree.fromstring(picture)
        assert root.tag.endswith("svg"), name
        assert root[0].text, name


def _card(data: str) -> dict[str, object]:
    networks = [
        {
            "file": f"model-T{steps}.net",
            "bytes": 1000,
            "in_repository": True,
            "timesteps": steps,
            "kind": "converted",
            "test": [{"accuracy": 0.9, "interval": [0.89, 0.91]}],
        }
        for steps in (1, 2, 4, 8, 64)
    ]
    return {"data": data, "architecture": "cnn", "cnn_test_accuracy": 0.95, "networks": networks}


CARDS = {data: _card(data) for data in ("mnist", "fashion-mnist", "cifar10")}
