"""`loihi-convert sweep`: the identity of cells, the folder, the front, and real sweeps of digits."""

from __future__ import annotations

import csv
import importlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.sweep_cells import cell, result
from support.training import train

from loihi_convert import cli, netx
from loihi_convert.__main__ import exit_code
from loihi_convert.backends.backend import open_backend
from loihi_convert.batch import conversion
from loihi_convert.batch.clusters import local_cluster
from loihi_convert.batch.computation import outcome_of
from loihi_convert.batch.conversion import (
    ConversionCell,
    Grid,
    PlannedCell,
    _names,
    part_of,
    planned_cells,
    varied,
)
from loihi_convert.batch.results import COSTS, Found, cost, front, quality
from loihi_convert.batch.setting import OPTIONS, ConversionSetting, ImageChoice
from loihi_convert.cli.sweep import AXES, KEYS, read_grid
from loihi_convert.cnn.checkpoint import load
from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.data import load_data
from loihi_convert.errors import PlatformError, UsageError
from loihi_convert.pipeline import exporting, running
from loihi_convert.pipeline.opening import open_file
from loihi_convert.pipeline.options import CnnOptions, DataRequest, NetworkFile
from loihi_convert.reading.source import open_source

NETWORK = NetworkFile(Path("/somewhere/model.pt"))
CELL = cell(NETWORK.model, "network", package="1.0")
DIGESTS = CELL.digests
RESULT = result(
    image_count=10,
    accuracy=0.5,
    accuracy_interval=(0.25, 0.75),
    cnn_accuracy=0.75,
    agreement_with_cnn=0.5,
    synaptic_operations=100.0,
    joules=(1e-6, 2e-6),
    cores=(1, 2),
)

OTHER_VALUES: dict[str, dict[str, Any]] = {
    "timesteps": {"timesteps": 8},
    "method": {"method": "percentile"},
    "percentile": {"method": "percentile", "percentile": 99.9},
    "alpha": {"alpha": 0.5},
    "amplitude": {"amplitude": "literal"},
    "initial_potential": {"initial_potential": "zero"},
    "reset": {"reset": "hard"},
    "readout": {"readout": "spikes"},
    "input_coding": {"input_coding": "poisson"},
    "poisson_seed": {"input_coding": "poisson", "poisson_seed": 1},
    "bias_correction": {"bias_correction": True},
    "thresholds": {"thresholds": "scalar"},
    "weight_bits": {"weight_bits": 4},
    "pixel_bits": {"pixel_bits": 5},
    "target": {"target": "loihi2"},
    "split_readout": {"split_readout": True},
    "skip_copies": {"skip_copies": 2},
}


def planned(cell: ConversionCell) -> PlannedCell:
    return PlannedCell(cell, "model.pt", "digits", "validation images")


def numbered(count: int) -> list[PlannedCell]:
    """Different cells."""
    return [planned(replace(CELL, setting=replace(CELL.setting, timesteps=steps + 1))) for steps in range(count)]


class TestIdentity:
    def test_every_option_changes_the_name(self) -> None:
        assert set(OTHER_VALUES) == set(OPTIONS) == {option.name for option in AXES.values()}
        settings = [ConversionSetting(), *(ConversionSetting(**values) for values in OTHER_VALUES.values())]
        names = {replace(CELL, setting=setting.normalized).name for setting in settings}
        assert len(names) == len(settings)

    @pytest.mark.parametrize(
        "other",
        [
            replace(CELL, package="1.1"),
            replace(CELL, images=ImageChoice("test")),
            *(replace(CELL, digests=replace(DIGESTS, **{name: "other"})) for name in asdict(DIGESTS)),
            *(
                replace(CELL, network=replace(NETWORK, cnn=CnnOptions(**change)))
                for change in (
                    {"arch": "nets:make"},
                    {"input_shape": (1, 8, 8)},
                    {"classes": ("a", "b")},
                    {"mean": (0.5,), "std": (1.0,)},
                    {"mean": (0.0,), "std": (0.5,)},
                    {"task": "regression"},
                )
            ),
            replace(CELL, network=replace(NETWORK, images=DataRequest(class_map="sorted"))),
        ],
    )
    def test_so_does_all_that_determines_a_result(self, other: ConversionCell) -> None:
        assert other.name != CELL.name
        assert len(other.name) == 64

    def test_a_normalization_has_the_names_by_which_finished_cells_are_found(self) -> None:
        rest = {"arch": None, "input_shape": None, "classes": None, "task": "classification", "class_map": None}
        assert CELL.key["network"] == {**rest, "mean": None, "std": None}
        normalized = replace(CELL, network=replace(NETWORK, cnn=CnnOptions(mean=(0.5,), std=(0.25,))))
        assert normalized.key["network"] == {**rest, "mean": (0.5,), "std": (0.25,)}

    def test_places_do_not(self) -> None:
        moved = NetworkFile(Path("/elsewhere/low.pt"), images=DataRequest("digits", Path("/data")))
        assert replace(CELL, network=moved).name == CELL.name

    @pytest.mark.parametrize("without_effect", [{"percentile": 99.9}, {"poisson_seed": 7}, {"reset": "soft"}])
    def test_options_without_effect_do_not(self, without_effect: dict[str, Any]) -> None:
        assert ConversionSetting(**without_effect).normalized == ConversionSetting().normalized

    @given(st.permutations(["timesteps", "method", "weight_bits", "reset"]))
    def test_the_order_of_keys_does_not(self, names: list[str]) -> None:
        values = {"timesteps": [1, 4], "method": ["auto", "percentile"], "weight_bits": [4, 8], "reset": ["soft"]}
        one, other = (Grid((NETWORK,), {name: values[name] for name in order}) for order in (values, names))
        assert one.settings == other.settings
        assert len(one.settings) == 8

    def test_the_same_conversion_is_one_cell(self) -> None:
        grid = Grid((NETWORK,), {"method": ["percentile", "ngu-lee"], "percentile": [99.0, 99.9]})
        assert [(one.method, one.percentile) for one in grid.settings] == [
            ("percentile", 99.0),
            ("percentile", 99.9),
            ("ngu-lee", None),
        ]

    def test_options_are_those_of_export(self) -> None:
        options = ConversionSetting(method="spike-norm", weight_bits=4, poisson_seed=3).options()
        assert (options.balance.reset, options.balance.poisson_seed, options.balance.first_potential) == (
            "hard",
            3,
            "zero",
        )
        assert options.quantize.weight_bits == 4


@given(st.integers(0, 40), st.integers(1, 50), st.randoms(use_true_random=False))
def test_shards_contain_every_cell_exactly_once(cells: int, shards: int, order: random.Random) -> None:
    every = numbered(cells)
    shuffled = order.sample(every, len(every))
    parts = [part_of(every if index % 2 else shuffled, index, shards) for index in range(1, shards + 1)]
    assert Counter(one.cell.name for part in parts for one in part) == Counter(one.cell.name for one in every)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


class TestFront:
    @staticmethod
    def found(accuracy: float | None, timesteps: int, operations: float, **changes: Any) -> Found:
        cell = replace(CELL, setting=replace(CELL.setting, timesteps=timesteps))
        return Found(
            planned(replace(cell, **changes)),
            RESULT.model_copy(update={"accuracy": accuracy, "synaptic_operations": operations}),
        )

    def test_by_hand(self) -> None:
        best = self.found(0.9, 8, 100.0)
        dearer = self.found(0.9, 8, 120.0)
        small = self.found(0.7, 2, 30.0)
        worse = self.found(0.6, 4, 90.0)
        fewer_steps = self.found(0.5, 1, 40.0)
        cells = [small, worse, dearer, best, fewer_steps]
        assert front(cells) == (best, small, fewer_steps)
        assert front(cells, ["synops"]) == (best, small)

    def test_equal_cells_are_one(self) -> None:
        one, same = self.found(0.9, 8, 100.0), self.found(0.9, 8, 100.0, package="2")
        assert front([one, same]) == (one,)

    def test_cells_of_other_images_do_not_compete(self) -> None:
        one = self.found(0.9, 1, 1.0)
        other = self.found(0.1, 8, 9.0, digests=replace(DIGESTS, images="others"))
        assert front([one, other]) == (one, other)

    def test_energies_are_compared_by_their_low_ends(self) -> None:
        one, other = self.found(0.9, 5, 1.0), self.found(0.9, 8, 1.0)
        loose = Found(one.planned, one.result.model_copy(update={"joules": (1e-6, 9e-6)}))
        tight = Found(other.planned, other.result.model_copy(update={"joules": (2e-6, 3e-6)}))
        assert front([loose, tight], ["energy"]) == (loose,)

    def test_without_labels_agreement_counts_and_an_error_counts_downwards(self) -> None:
        unknown = RESULT.model_copy(update={"accuracy": None})
        numbers = unknown.model_copy(update={"agreement_with_cnn": None, "rmse": 0.25})
        assert (quality(RESULT), quality(unknown), quality(numbers)) == (0.5, 0.5, -0.25)

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 4)), max_size=12))
    def test_nothing_on_it_is_beaten_and_all_else_is(self, values: list[tuple[int, int, int]]) -> None:
        cells = [self.found(accuracy / 4, steps, float(work)) for accuracy, steps, work in values]

        def beats(one: Found, other: Found) -> bool:
            mine, theirs = (
                (-one.result.accuracy, *(cost(one, kind) for kind in COSTS))
                for one in (one, other)  # type: ignore[operator]
            )
            return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))  # type: ignore[operator]

        best = front(cells)
        assert not any(beats(other, one) for one in best for other in cells)
        for one in cells:
            same = [other for other in best if other.result == one.result and other.planned == one.planned]
            assert same or any(beats(other, one) for other in best)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Sweep = Callable[..., Done]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "model.pt"
    train("digits-cnn", load_data("digits"), replace(default_recipe("digits"), epochs=3), seed=0, output=path)
    return path


@pytest.fixture
def sweep(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Sweep:
    """Run `sweep` in a folder with a model.pt."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint, tmp_path)

    def run(*words: object) -> Done:
        texts = ["sweep", *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["loihi-convert", *texts])
        code = exit_code(lambda: cli.app(texts, standalone_mode=False))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Done(code, out, err)

    return run


HERE = ("--workers", "0", "--calibration", "40", "--images", "30")


def rows(folder: Path = Path("sweep")) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("cells/*.json")}


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The T of every export."""
    counted: list[int] = []
    export = exporting.export

    def counting(*args: Any, **keywords: Any) -> Any:
        counted.extend(args[2])
        return export(*args, **keywords)

    monkeypatch.setattr(conversion.exporting, "export", counting)
    return counted


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["model.pt", "--shard", "0/3"], 2, "error: --shard: found '0/3'; must be K/N with 1 <= K <= N, such as 3/20."),
        (["model.pt", "--shard", "3"], 2, "error: --shard: found '3'; must be K/N"),
        (["model.pt", "--shard", "1/2", "--workers", "2"], 2, "--workers: given; must not be given with --shard."),
        (["model.pt", "--workers", "-1"], 2, "error: --workers: found -1; must be a whole number >= 0."),
        (["model.pt", "--balance", "lest-squares"], 2, "Did you mean least-squares?"),
        (["model.pt", "--weight-bits", "4,9"], 2, "error: --weight-bits: found 9; must be a whole number in 2..8."),
        (["model.pt", "-T", "4,x"], 2, "error: --timesteps: found 'x'; must be a whole number in 1.."),
        (["model.pt", "-T", "4,4"], 2, "error: --timesteps: found 4, 4; must be without repeats."),
        (["model.pt", "-T", "0"], 2, "error: --timesteps: found 0; must be a whole number in 1.."),
        (["model.pt", "--percentile", "101"], 2, "error: --percentile: found 101.0; must be in (0, 100]."),
        (
            ["model.pt", "--percentile", "99,99.9"],
            2,
            "error: --percentile: found 99.0, 99.9, without effect in any cell;",
        ),
        (["model.pt", "--seed", "-1"], 2, "error: --seed: found -1; must be a whole number in 0.."),
        (["model.pt", "--bias-correction", "maybe"], 2, "error: --bias-correction: found 'maybe'; must be yes or no"),
        (["model.pt", "--split", "train"], 2, "error: --split: found 'train'; must be one of validation, test."),
        (["model.pt", "--against", "speed"], 2, "error: --against: found 'speed'; must be one of timesteps, synops"),
        (["model.pt", "--slurm", "partition=a"], 2, "must be workers=N, the number of jobs, with"),
        (["model.pt", "--slurm", "workers=2,queue=a"], 2, "with key=value pairs of partition, walltime"),
        (["model.pt", "--images", "201"], 2, "--images: found 201; must be 1..200, the validation images of digits."),
        (["absent.pt"], 3, "absent.pt: no such file"),
        (["absent.toml"], 3, "error: absent.toml: cannot be read as TOML (No such file or directory)."),
        (["bad.toml"], 3, "error: bad.toml: cannot be read as TOML ("),
        (["typo.toml"], 2, "error: typo.toml: found the unknown key 'weigth-bits'. Did you mean weight-bits?"),
        (["type.toml"], 2, "error: type.toml: timesteps: found 'yes'; must be a whole number in 1..1,048,576."),
        (["comma.toml"], 2, "error: comma.toml: classes: found ['a, b', 'c']; must contain texts without commas."),
        (["table.toml"], 2, "error: table.toml: class-map: found {'a,b': 0}; must contain texts without commas."),
        (["twice.toml"], 2, "error: twice.toml: weight_bits: found weight-bits again; must be given once."),
        (["empty.toml"], 2, "error: empty.toml: found no networks; must have model ="),
        (["bad.toml", "model.pt"], 2, "found 2 files; must be one TOML file, or networks."),
    ],
)
def test_mistakes(sweep: Sweep, words: list[str], code: int, message: str) -> None:
    for name, text in {
        "bad": "model =",
        "typo": 'model = "model.pt"\nweigth-bits = 4',
        "type": 'model = "model.pt"\ntimesteps = [1, true]',
        "twice": 'model = "model.pt"\nweight_bits = [4]\nweight-bits = [8]',
        "empty": "timesteps = 4",
        "comma": 'model = "model.pt"\nclasses = ["a, b", "c"]',
        "table": 'model = "model.pt"\nclass-map = {"a,b" = 0}',
    }.items():
        Path(f"{name}.toml").write_text(text)
    done = sweep(*words)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert not Path("sweep").exists()


@pytest.mark.parametrize(
    ("words", "package"), [(["--workers", "2"], "distributed"), (["--slurm", "workers=1"], "dask-jobqueue")]
)
def test_a_missing_extra_is_one_sentence(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, words: list[str], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    monkeypatch.delitem(sys.modules, "loihi_convert.batch.clusters", raising=False)
    done = sweep("model.pt", *words)
    assert done.code == PlatformError.exit_code
    assert f"error: {package}: cannot be imported" in done.err
    assert f'Run: pip install "{package}>=' in done.err
    assert "Without it, --workers=0" in done.err or "Without it, --workers 0 computes" in done.err


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize("table", ["", '[[network]]\nmodel = "model.pt"\n'])
@pytest.mark.parametrize(
    ("arch", "words", "expected"),
    [
        ("os:system('touch PWNED')", (), "without arguments"),
        ("os:system('touch PWNED')", ("--trust",), "without arguments"),
        ("touching:make", (), ""),
    ],
)
def test_a_grid_executes_no_code(
    sweep: Sweep, arch: str, words: tuple[str, ...], expected: str, table: str, dry_run: tuple[str, ...]
) -> None:
    Path("touching.py").write_text("from pathlib import Path\nPath('PWNED').touch()\n")
    text = f'{table}arch = "{arch}"\n'
    Path("grid.toml").write_text(text if table else f'model = "model.pt"\n{text}')
    done = sweep("grid.toml", *words, *dry_run)
    assert (done.code, done.out) == (2, "")
    assert "grid.toml: arch: found" in done.err
    assert (expected or "add --trust, or --arch touching:make") in done.err
    assert not Path("PWNED").exists()
    assert "touching" not in sys.modules
    assert not Path("sweep").exists()


def test_every_key_of_a_grid_is_an_option() -> None:
    assert {f"--{key}" for key in KEYS} <= set(cli.verb_flags(["sweep"]).values())


def test_toml_and_flags_name_the_same_cells(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    shutil.copy(checkpoint, tmp_path)
    file.write_text(
        'model = ["model.pt"]\ntimesteps = [1, 4]\nweight_bits = 4\nbalance = ["percentile", "rmp"]\n'
        "percentile = [99, 99.9]\nbias-correction = [true, false]\nimages = 20\ncalibration = 30\n"
    )
    flags = {
        "timesteps": "4,1",
        "weight-bits": "4",
        "balance": "rmp,percentile",
        "percentile": "99,99.9",
        "bias-correction": "no,yes",
        "images": "20",
        "calibration": "30",
    }
    one, other = (planned_cells(grid) for grid in (read_grid([file], {}), read_grid([checkpoint], flags)))
    assert {cell.cell.name for cell in one} == {cell.cell.name for cell in other}
    # Two T, with and without correction: two percentiles and rmp.
    assert len(one) == 2 * 2 * 3
    assert {cell.cell.setting.timesteps for cell in planned_cells(read_grid([file], {"timesteps": "2"}))} == {2}


def test_paths_given_as_flags_are_relative_to_the_current_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    shutil.copy(checkpoint, "sub")
    for folder in ("", "sub"):
        Path(folder, "own.npz").touch()
    Path("sub/grid.toml").write_text('model = "model.pt"\ndata = "own.npz"\ntimesteps = 1\n')
    (of_file,) = read_grid([Path("sub/grid.toml")], {}).networks
    (of_flag,) = read_grid([Path("sub/grid.toml")], {"data": "own.npz", "data-root": "root"}).networks
    assert (of_file.images.data, of_flag.images.data) == (str(tmp_path / "sub" / "own.npz"), str(tmp_path / "own.npz"))
    assert (of_file.model, of_flag.model, of_flag.images.data_root) == (of_file.model, of_file.model, tmp_path / "root")
    Path("sub/tables.toml").write_text(
        'timesteps = 1\n[[network]]\nmodel = "model.pt"\ndata = "own.npz"\nmean = 0.5\nstd = 0.5\n'
    )
    (of_table,) = read_grid([Path("sub/tables.toml")], {}).networks
    (of_flag,) = read_grid([Path("sub/tables.toml")], {"data": "own.npz", "mean": "0.1"}).networks
    assert (of_table.images.data, of_table.cnn.normalization) == (str(tmp_path / "sub" / "own.npz"), ((0.5,), (0.5,)))
    assert (of_flag.images.data, of_flag.cnn.normalization) == (str(tmp_path / "own.npz"), ((0.1,), (0.5,)))


def test_a_percentile_has_a_default() -> None:
    assert ConversionSetting(method="percentile").normalized.percentile == 99


OWN = """
import own_parts
from torch import nn

def make(classes=10):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), own_parts.between(), nn.Flatten(), nn.Linear(144, classes))
"""
PARTS = "from torch.nn import {0} as between\n"


@pytest.mark.slow
def test_own_cnns_beside_checkpoints(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    def forget() -> None:
        for name in ("own_nets", "own_parts"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    Path("own_nets.py").write_text(OWN)
    Path("own_parts.py").write_text(PARTS.format("Identity"))
    forget()
    cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Identity(), nn.Flatten(), nn.Linear(144, 10))
    torch.save(cnn.state_dict(), "own.pt")
    Path("grid.toml").write_text(
        '[[network]]\nmodel = "model.pt"\n'
        '[[network]]\nmodel = "own.pt"\narch = "own_nets:make"\ndata = "digits"\nmean = 0.5\nstd = [0.25]\n'
    )
    assert sweep("grid.toml", "--trust", "-T", "2", *HERE).code == 0
    assert [(row["network"], row["error"]) for row in rows()] == [("model.pt", ""), ("own.pt", "")]
    before = {row["network"]: row["cell"] for row in rows()}
    # Another file of code is another cell, even with the same weights.
    Path("own_nets.py").write_text(f"{OWN}\n# changed\n")
    forget()
    assert sweep("grid.toml", "--trust", "-T", "2", *HERE).code == 0
    after = {row["network"]: row["cell"] for row in rows()}
    assert {name for name in before if before[name] != after[name]} == {"own.pt"}
    # And another CNN, from the same files, whose code imports another part.
    Path("own_parts.py").write_text(PARTS.format("ReLU6"))
    forget()
    assert sweep("grid.toml", "--trust", "-T", "2", *HERE).code == 0
    last = {row["network"]: row["cell"] for row in rows()}
    assert {name for name in after if after[name] != last[name]} == {"own.pt"}


@pytest.mark.slow
class TestDigits:
    def test_a_cell_is_an_export_and_a_run(self, sweep: Sweep) -> None:
        """Accuracy and work are those of `running.run` on the file that `exporting.export` writes."""
        assert sweep("model.pt", "-T", "4", "--balance", "percentile", "--weight-bits", "5", *HERE).code == 0
        (row,) = rows()
        digits = load_data("digits")
        options = ConversionSetting(method="percentile", weight_bits=5).options()
        exporting.export(Path("model.pt"), Path("model.net"), [4], digits.calibration_images("40"), options)
        with open_backend("ref") as backend:
            ran = running.run(open_file("model.net"), digits.validation[:30], backend)
        point = ran.evaluation.nominal_point
        assert netx.read(Path("model.net")).timesteps == 4
        assert float(row["accuracy"]) == point.accuracy
        assert float(row["synaptic_operations"]) == point.synaptic_operations
        assert float(row["cnn_accuracy"]) == ran.evaluation.cnn_accuracy
        assert ran.evaluation.energy is not None
        energy = {one.timesteps: one.loihi1_joules for one in ran.evaluation.energy.estimates}[4]
        assert (float(row["joules_low"]), float(row["joules_high"])) == energy
        (cell,) = stored(Path("sweep")).values()
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(json.loads(cell)["result"]["correct"]), np.uint8), count=30)
        assert np.array_equal(bits, ran.result.predictions[:, 3] == digits.validation.labels[:30])
        assert "correct" not in row

    def test_nothing_is_computed_twice(self, sweep: Sweep, exports: list[int]) -> None:
        words = ("--balance", "percentile", "--weight-bits", "4,8", *HERE)
        assert sweep("model.pt", "-T", "1,2", *words).code == 0
        assert sorted(exports) == [1, 1, 2, 2]
        before = stored(Path("sweep"))
        exports.clear()
        done = sweep("model.pt", "-T", "1,2,4", *words)
        assert sorted(exports) == [4, 4]
        assert before.items() < stored(Path("sweep")).items()
        assert done.err.count("%") == 2
        exports.clear()
        assert sweep("model.pt", "-T", "1,2,4", *words).out.startswith("Best: ")
        assert exports == []

    def test_validation_images_unless_test_images_are_asked_for(self, sweep: Sweep) -> None:
        words = ("model.pt", "-T", "1", "--balance", "percentile", "--calibration", "20", "--workers", "0")
        assert sweep(*words).code == 0
        (row,) = rows()
        assert (row["images"], row["image_count"]) == ("validation images", "200")
        assert sweep(*words, "--split", "test").code == 0
        (other,) = rows()
        assert (other["images"], other["image_count"]) == ("test images", "400")
        assert row["cell"] != other["cell"]

    def test_a_failing_cell_is_a_row(self, sweep: Sweep) -> None:
        done = sweep("model.pt", "-T", "2", "--balance", "rmp,percentile", "--reset", "hard", *HERE)
        assert done.code == 0
        assert [row["error"] for row in rows()] == [
            "reset: found 'hard'; must be soft with `method='rmp'`. For hard reset use `method='spike-norm'`.",
            "",
        ]
        assert [row["accuracy"] == "" for row in rows()] == [True, False]
        assert "failed      1 cell: --reset: found 'hard'; must be soft with --balance rmp." in done.out
        assert (
            json.loads(sweep("model.pt", "-T", "2", "--balance", "rmp", "--reset", "hard", *HERE, "--json").out)[
                "front"
            ]
            == []
        )

    def test_a_forgotten_normalization_is_said_before_any_cell(self, sweep: Sweep) -> None:
        Path("sweep_nets.py").write_text(
            "from loihi_convert.cnn.models import build_model\n"
            "def make():\n    return build_model('digits-cnn', (1, 8, 8), 10)\n"
        )
        torch.save({**load("model.pt").state}, "plain.pt")
        words = ("plain.pt", "--arch", "sweep_nets:make", "--data", "digits", "-T", "2", "--dry-run", *HERE)
        assert "warning" not in sweep(*words).err
        assert "warning: plain.pt: the CNN classifies" in sweep(*words, "--mean", "0.9", "--std", "0.1").err
        done = sweep("model.pt", "-T", "2", "--mean", "0.9", "--std", "0.1", "--dry-run", *HERE)
        assert (done.code, "--mean: found (0.9,); the checkpoint was trained with no" in done.err) == (2, True)

    def test_a_dry_run_computes_and_writes_nothing(self, sweep: Sweep, exports: list[int]) -> None:
        words = ("model.pt", "-T", "1,2", "--balance", "auto,percentile", *HERE)
        done = sweep(*words, "--dry-run")
        assert done.out.startswith("4 of 4 cells to compute: about ")
        assert "rough: no cell is measured yet" in done.out
        assert (exports, Path("sweep").exists()) == ([], False)
        sweep("model.pt", "-T", "1", "--balance", "auto,percentile", *HERE)
        done = sweep(*words, "--dry-run")
        assert done.out.startswith("2 of 4 cells to compute: about ")
        assert "from 2 measured cells" in done.out
        assert done.out.count("computed") == 2
        content = json.loads(sweep(*words, "--dry-run", "--json").out)
        assert [cell["is_computed"] for cell in content["cells"]] == [True, False, True, False]
        assert content["seconds"] > 0

    def test_shards_make_the_whole(self, sweep: Sweep, exports: list[int]) -> None:
        words = ("model.pt", "-T", "1,2,4", "--balance", "percentile", *HERE[2:])
        first = sweep(*words, "--shard", "1/2")
        assert not Path("sweep/sweep.csv").exists()
        assert "1 cell; the same command without --shard" in first.out
        sweep(*words, "--shard", "2/2")
        assert [row["timesteps"] for row in rows()] == ["1", "2", "4"]
        assert sorted(exports) == [1, 2, 4]

    def test_the_answer(self, sweep: Sweep) -> None:
        done = sweep("model.pt", "-T", "1,4", "--balance", "percentile", "--weight-bits", "2,8", *HERE)
        lines = done.out.splitlines()
        assert lines[0].startswith("Best: ")
        assert "4 cells on validation images of digits; 4 computed now" in done.out
        assert len(lines) <= 24
        next_line = next(line for line in lines if line.startswith("next"))
        assert "loihi-convert export model.pt -T " in next_line
        best = json.loads(
            sweep("model.pt", "-T", "1,4", "--balance", "percentile", "--weight-bits", "2,8", *HERE, "--json").out
        )
        on_front = [row["cell"] for row in best["cells"] if row["is_on_front"]]
        assert sorted(best["front"]) == sorted(on_front)
        assert len(best["cells"]) == 4
        verified = sweep("model.pt", "-T", "1,4", "--balance", "percentile", "--verify", *HERE)
        assert (verified.code, "2 of 2 cells computed again: equal" in verified.err) == (0, True)
        top = max(best["cells"], key=lambda row: row["accuracy"])
        assert f"Best: {100 * top['accuracy']:.2f} %" in lines[0]

    def test_the_next_command_makes_the_same_network(
        self, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for words in (
            ("--balance", "spike-norm", "--reset", "soft", "--input", "constant"),
            ("--balance", "spike-norm"),
            ("--balance", "rmp", "--input", "constant", "--alpha", "0.8"),
            ("--balance", "ngu-lee", "--reset", "hard"),
        ):
            done = sweep("model.pt", "-T", "2", *words, *HERE)
            # Its last fact, in several lines.
            command = shlex.split(done.out.partition("\nnext")[2])
            monkeypatch.setattr(sys, "argv", command)
            assert exit_code(lambda c=command: cli.app([*c[1:], "--overwrite"], standalone_mode=False)) == 0
            capsys.readouterr()
            network, (row,) = netx.read(Path("model.net")), rows()
            assert network.reset == row["reset"]
            assert (network.poisson_seed is None) == (row["input_coding"] == "constant")
            assert network.provenance.balance.method == row["method"]
            assert network.provenance.balance.alpha == float(row["alpha"])

    def test_auto_is_that_of_export(self, sweep: Sweep) -> None:
        """With corrections, which set initial potentials."""
        (one,) = planned_cells(read_grid([Path("model.pt")], {"images": "30", "calibration": "40", "timesteps": "2"}))
        assert one.cell.setting.options().balance == BalanceOptions(
            reset="soft", readout="potential", input_coding="constant"
        )
        assert sweep("model.pt", "-T", "2", *HERE).code == 0
        (row,) = rows()
        exporting.export(Path("model.pt"), Path("auto.net"), (2,), load_data("digits").calibration_images(40))
        done = open_backend("ref").run(netx.read(Path("auto.net")), load_data("digits").validation.images[:30], 2)
        correct = int((done.predictions[:, -1] == load_data("digits").validation.known_labels[:30]).sum())
        assert float(row["accuracy"]) == correct / 30

    def test_a_changed_checkpoint_is_not_used(self, sweep: Sweep, checkpoint: Path) -> None:
        (one,) = planned_cells(read_grid([checkpoint], {"images": "5", "calibration": "10", "timesteps": "1"}))
        changed = replace(one.cell, digests=replace(one.cell.digests, model="other"))
        outcome = outcome_of(changed)
        assert outcome.is_final is False
        assert "model.pt, its code or its images: has changed since the command began" in str(outcome.error)

    @pytest.mark.usefixtures("sweep")
    def test_corrected_labels_or_targets_are_other_cells(self) -> None:
        import numpy as np

        digits = load_data("digits").test[:20]
        found = []
        for task, answers in (
            ("classification", {"labels": digits.known_labels}),
            ("classification", {"labels": digits.known_labels[::-1]}),
            ("regression", {"targets": np.zeros((20, 10))}),
            ("regression", {"targets": np.ones((20, 10))}),
        ):
            np.savez("own.npz", images=digits.images, **answers)
            (one,) = planned_cells(read_grid([Path("model.pt")], {"data": "own.npz", "task": task, "timesteps": "1"}))
            found.append(one.cell.digests.images)
        assert len(set(found)) == 4

    def test_a_regression_is_compared_by_its_error(self, sweep: Sweep, tmp_path: Path) -> None:
        import numpy as np

        digits = load_data("digits").test
        source = open_source(Path("model.pt"))
        np.savez("targets.npz", images=digits.images[:20], targets=source.module_outputs(digits.images[:20]))
        done = sweep("model.pt", "-T", "8", "--task", "regression", "--data", "targets.npz", "--workers", "0")
        assert done.code == 0, done.err
        assert re.match(r"Best: RMSE \S+ with model\.pt \(CNN \S+\)\n", done.out)
        assert "targets.npz has no validation images" in done.err
        (row,) = rows()
        assert float(row["rmse"]) > float(row["cnn_rmse"]) >= 0

    def test_different_images_are_named(self, sweep: Sweep) -> None:
        import numpy as np

        digits = load_data("digits").test
        for folder, part in (("one", digits[:20]), ("two", digits[20:40])):
            Path(folder).mkdir()
            np.savez(Path(folder, "own.npz"), images=part.images, labels=part.known_labels)
        Path("grid.toml").write_text(
            'timesteps = [1]\n[[network]]\nmodel = "model.pt"\ndata = "one/own.npz"\n'
            '[[network]]\nmodel = "model.pt"\ndata = "two/own.npz"\n'
        )
        cells = planned_cells(grid := read_grid([Path("grid.toml")], {}))
        assert varied(grid, cells) == ("network", "data")
        assert varied(grid, cells[:1]) == ("network",)
        assert [one.data for one in cells] == [f"own.npz ({one.cell.digests.images[:8]})" for one in cells]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "loihi_convert", "sweep", "model.pt", *words]


@pytest.mark.slow
class TestProcesses:
    WORDS = ("-T", "1,2,4", "--balance", "percentile,ngu-lee", "--calibration", "40", "--images", "30")

    def test_two_local_clusters_at_once(self, sweep: Sweep) -> None:
        """Each on its own ports; a warning of Dask would be an error here."""
        with local_cluster(1) as one, local_cluster(1) as other:
            assert (one.count, other.count) == (1, 1)

    def test_a_local_cluster_gives_the_same_bytes(self, sweep: Sweep) -> None:
        assert sweep("model.pt", *self.WORDS, "--workers", "0", "-o", "here").code == 0
        done = sweep("model.pt", *self.WORDS, "--workers", "2", "-o", "there")
        assert done.code == 0, done.err
        assert len(stored(Path("here"))) == 6
        assert stored(Path("here")) == stored(Path("there"))
        for name in ("sweep.csv", "sweep.html"):
            assert Path("here", name).read_bytes() == Path("there", name).read_bytes()

    def test_ctrl_c_keeps_what_is_done(self, sweep: Sweep) -> None:
        process = subprocess.Popen(
            command("-T", ",".join(map(str, range(1, 33))), *self.WORDS[2:], "--workers", "1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        first = process.stderr.readline()
        assert " %" in first
        # As a terminal does: to the workers, too.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=100)
        assert (process.returncode, out) == (128 + signal.SIGINT, "")
        assert (
            err.splitlines()[-1]
            == "error: interrupted; finished cells are kept; run the same command again to continue."
        )
        assert "Traceback" not in err
        kept = stored(Path("sweep"))
        assert 1 <= len(kept) < 64
        assert sweep("model.pt", *self.WORDS, "--workers", "0").code == 0
        assert kept.items() <= stored(Path("sweep")).items()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/m.pt", "b/m.pt", "c/n.pt"], ["a/m.pt", "b/m.pt", "n.pt"]),
        (["a/m.pt", "a/m.pt"], ["a/m.pt#1", "a/m.pt#2"]),
    ],
)
def test_networks_have_different_names(paths: list[str], expected: list[str]) -> None:
    assert list(_names([NetworkFile(Path(path)) for path in paths])) == expected


def test_a_grid_needs_values() -> None:
    with pytest.raises(UsageError, match="found no value"):
        Grid((NETWORK,), {"timesteps": []})
    with pytest.raises(UsageError, match="found bits"):
        Grid((NETWORK,), {"bits": [4]})
    with pytest.raises(UsageError, match="found none"):
        Grid((), {})
    with pytest.raises(UsageError, match="found 1,000,000 cells"):
        Grid((NETWORK,), {"timesteps": range(1, 1001), "percentile": range(1, 1001)})
