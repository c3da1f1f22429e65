"""Every command of README.md and docs/ runs, page by page, on small files; every option they name exists.

What the commands stand on is replaced, so that nothing needs the network, a data set or a board (`SUBSTITUTES`): the
data set is `digits`, trainings take one epoch, runs ten images. Not run are downloads and installations; the tools in
tools/ have tests of their own, and here their options are compared with their help.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from support.external_files import small_layers, write_external
from support.training import train

from loihi_convert import cli
from loihi_convert.__main__ import main
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.data import load_data

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]

SUBSTITUTES = {
    # Benchmark sets that would have to be downloaded.
    r"--data (mnist|cifar10|fashion-mnist)\b": "--data digits",
    r"netx_models/mnist/": "",
    r"\b(mnist|cifar10-vgg16)-T4\b": "model-T4.net",
    # The paper's recipe is for the benchmark sets.
    r"--recipe paper": "",
    r"--input-shape 1,28,28": "--input-shape 1,8,8",
    # Folders of other names than those of the classes.
    r"my-images --class-map zero": "named-images --class-map zero",
    # ONNX files need another package.
    r"\S+\.onnx --task regression": "my.pt --arch my_nets:make_cnn --task regression",
    r"\S+\.onnx\b": "my.pt --arch my_nets:make_cnn",
    # Quick ones.
    r"^train\b": "train --epochs 1 --overwrite",
    r"^export\b(?! \S+\.net\b)": "export --overwrite --calibration 30",
    r"^export (?=\S+\.net\b)": "export --overwrite ",
    r"^report\b": "report --overwrite",
    r"^sweep\b": "sweep --workers 0 --calibration 30 --images 5",
    r"--images \d+": "--images 5",
    r"-T (64|32|16)\b": "-T 8",
    r"^run (?!.*--images)(?!.*--data)": "run --images 5 ",
    r"--sim 10\b": "--sim 2",
    r"--lava-python \S+": f"--lava-python {sys.executable}",
}
NOT_RUN = re.compile(
    r"loihi-convert (data|doctor|demo|reproduce)\b|(run|sweep) .*(--slurm|--scheduler|--shard)|python3? -m "
    r"|python tools/|python bundle/|pip install |pytest"
)
"""Downloads, installations, clusters, what other tests run whole or with their own data, and tools."""

GRID = """
model = "model.pt"
timesteps = [1, 4]
weight-bits = [4, 8]
balance = "percentile"
"""

BOARD_MISSING = 4
NETS = """
from torch import nn

def make_cnn(classes=10):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))
"""


def commands(page: Path) -> Iterator[str]:
    """The commands of a page, without their comments."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for line in block.splitlines():
            if command := re.sub(r"\s+#.*", "", line).strip():
                yield command


def names(page: Path) -> str:
    return str(page.relative_to(ROOT))


def globbed(word: str) -> list[str]:
    """What a shell makes of a word."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


WITH_COMMANDS = [page for page in PAGES if any(not NOT_RUN.search(command) for command in commands(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_work_without_the_website(page: Path) -> None:
    """Each has a text and a file, as shown on GitHub; Sphinx would fill in the title of the page."""
    links = re.findall(r"\[([^\]]*)\]\((?!http)([^)#]*)(?:#[^)]*)?\)", page.read_text())
    assert [target for text, target in links if not text or not (page.parent / target).exists()] == []


def test_every_verb_and_option_exists() -> None:
    group = typer.main.get_command(cli.app)
    lines = [(page, line) for page in PAGES for line in commands(page) if line.startswith("loihi-convert ")]
    assert len(lines) > 60
    for page, line in lines:
        verb, *words = line.split()[1:]
        command = group.commands[verb]  # type: ignore[attr-defined]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known, (names(page), line)


# One process for all tools, because each new one would import torch again.
HELPS = """
import contextlib, io, json, runpy, sys
pages, path = [], sys.path[1:]
for tool, *verb in json.loads(sys.argv[1]):
    sys.argv = [tool, *verb, "--help"]
    sys.path = [tool.rpartition("/")[0], *path]
    with contextlib.redirect_stdout(io.StringIO()) as page:
        try:
            runpy.run_path(tool, run_name="__main__")
        except SystemExit as stop:
            assert not stop.code, sys.argv
        else:
            raise AssertionError(f"{sys.argv} did not end")
    pages.append(page.getvalue())
print(json.dumps(pages))
"""


@pytest.mark.slow
def test_the_options_of_tools_exist() -> None:
    """Every tool has a help page, and the page every option that the documentation names."""
    found = [re.match(r"(?:\w+=\S* )*python (tools/.*)", line) for page in PAGES for line in commands(page)]
    lines = [shlex.split(match[1]) for match in found if match]
    verbs = [tuple(word for word in words[:2] if not word.startswith("-")) for words in lines]
    tools = [path for path in sorted(ROOT.glob("tools/*.py")) if "__main__" in path.read_text()]
    known = list(dict.fromkeys([*verbs, *((str(path.relative_to(ROOT)),) for path in tools)]))
    program = [sys.executable, "-c", HELPS, json.dumps(known)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    helps = dict(zip(known, json.loads(done.stdout), strict=True))
    for verb, words in zip(verbs, lines, strict=True):
        options = set(re.findall(r"(?<![\w-])--?[\w-]+", helps[verb]))
        assert {word for word in words if word.startswith("-")} <= options, words


BEFORE = (
    *(
        f"export model.pt -T {steps} -o model-T{steps}.net --calibration 30 --balance percentile"
        for steps in (1, 4, 16)
    ),
    "export model.pt -T 4 --calibration 30 --balance percentile",
    "export model.pt -T 4 --calibration 30 --balance act-norm -o other.net",
    "export model.pt -T 4 --calibration 30 --balance percentile --target loihi2 -o stock.net",
    "export my.pt --arch my_nets:make_cnn --data digits -T 4 --calibration 30 --balance percentile",
    "run model-T4.net --images 5",
    "run model-T16.net --images 5",
)
"""What a reader has done before a page; pages may do it again."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("documented")
    digits = load_data("digits")
    recipe = Recipe(epochs=2, batch_size=64, learning_rate=0.004, averaging=0.0)
    train("digits-cnn", digits, recipe, seed=0, output=folder / "model.pt")
    (folder / "my_nets.py").write_text(NETS)
    (folder / "grid.toml").write_text(GRID)
    space: dict[str, Any] = {}
    exec(NETS, space)
    torch.manual_seed(0)
    torch.save(space["make_cnn"]().state_dict(), folder / "my.pt")
    images = digits.test.images[:30]
    for name, classes in (("my-images", [str(digit) for digit in range(10)]), ("named-images", ["zero", "one"])):
        for index, image in enumerate(images):
            place = folder / name / classes[index % len(classes)]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(place / f"{index}.png")
    for name in ("train", "test", "frames"):
        np.savez(folder / f"{name}.npz", images=images, labels=digits.test.known_labels[:30])
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        np.savez(folder / f"{name}-targets.npz", images=images, targets=rng.normal(size=(30, 10)))
    spiking = [nir.IF(np.ones(count), np.ones(count), np.zeros(count)) for count in (20, 10)]
    synapses = [nir.Affine(rng.normal(0, 0.2, shape), np.zeros(shape[0])) for shape in ((20, 64), (10, 20))]
    start, flat = nir.Input({"input": np.array([1, 8, 8])}), nir.Flatten({"input": np.array([1, 8, 8])}, 0, -1)
    chain = nir.NIRGraph.from_list(start, flat, synapses[0], spiking[0], synapses[1], spiking[1])
    nir.write(folder / "snn.nir", chain)
    layers = small_layers()
    layers[0]["shape"] = [1, 8, 8]
    layers[1] |= {"shape": [6, 4, 7], "weight": layers[1]["weight"][:, :1], "groups": 1}
    layers[2]["shape"] = [1, 1, 168]
    layers[3]["weight"] = 2 * rng.integers(-20, 21, (7, 168)).astype(np.float32)
    layers[4] |= {"shape": [10], "weight": 2 * rng.integers(-20, 21, (10, 7)).astype(np.float32)}
    write_external(folder / "slayer.net", layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in BEFORE:
            assert run(command, patch) == 0, command
    return folder


def run(words: str, patch: pytest.MonkeyPatch) -> int:
    """Run ``loihi-convert`` with ``words`` in the current folder, and return its exit code."""
    patch.setattr(signal, "signal", lambda *_: None)
    patch.syspath_prepend(str(Path.cwd()))
    expanded = [found for word in shlex.split(words) for found in globbed(word)]
    patch.setattr(sys, "argv", ["loihi-convert", *expanded])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def on_small_files(command: str) -> str:
    """The words of a command of a page, as they are run here."""
    words = command.removeprefix("loihi-convert ")
    for pattern, replacement in SUBSTITUTES.items():
        words = re.sub(pattern, replacement, words)
    return words


@pytest.mark.lava
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=names)
def test_the_commands_of_a_page_run(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        if NOT_RUN.search(command) or not command.startswith("loihi-convert "):
            continue
        words = on_small_files(command)
        code = run(words, monkeypatch)
        out, err = capsys.readouterr()
        needs_board = "--backend loihi2" in words and "--dry-run" not in words
        expected = {BOARD_MISSING} if needs_board else {5} if "other.net" in words else {0}
        # A file for Lava cannot be used on Loihi 2, and `check` says so.
        expected |= {3} if words.startswith("check") else set()
        assert code in expected, (words, out[-2000:], err[-2000:])


def test_every_column_of_a_run_folder_is_described(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names in docs/reference/run-folder.md, and those in the files of a classification and a regression."""
    described = dict[str, set[str]]()
    file = ""
    for line in (ROOT / "docs/reference/run-folder.md").read_text().split("## Columns")[1].splitlines():
        if len(cells := [cell.strip() for cell in line.split("|")]) == 5:
            file = cells[1].strip("`") or file
            described.setdefault(file, set()).update(re.findall(r"`([^`]+)`", cells[2]))
    described["regression.csv"] |= {f"{one}{end}" for one in ("rmse", "r2") for end in ("_to_cnn", "_float", "_cnn")}
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    export = "export my.pt --arch my_nets:make_cnn -T 4 --calibration 30"
    for command in (
        "export model.pt --readout spikes -T 4 -o spikes.net",
        "run spikes.net --images 20 -o spikes",
        f"{export} --data my-images -o classes.net",
        "run classes.net --arch my_nets:make_cnn --float -o classes",
        f"{export} --task regression --data train-targets.npz -o numbers.net",
        "run numbers.net --arch my_nets:make_cnn -o numbers",
    ):
        assert run(command, monkeypatch) == 0, command
    assert {path.name for path in Path().glob("*/*.csv")} == {name for name in described if name.endswith(".csv")}
    for name, columns in described.items():
        headers = [path.read_text().splitlines()[0].split(",") for path in Path().glob(f"*/{name}")]
        found = {
            re.sub(r"(synaptic_operations|firing_rate)_(conv|fc|0|3)\w*$", r"\1_<layer>", column)
            for row in headers
            for column in row
        }
        found = {re.sub(r"^(potential|spike_count|output|target)_\d+$", r"\1_<output>", column) for column in found}
        found = {re.sub(r"_(low|high)$", "", column) for column in found}
        assert found - {"file", "timesteps", "balanced_timesteps", "image_count"} == columns, name
