"""Build a folder of netx_models/ from its plan: train, export, choose on validation images, measure, write the card.

    python tools/netx_models.py build FOLDER            # everything that FOLDER/build.toml says and that is missing

``build.toml`` holds the options of `loihi-convert train` and `export`::

    sim_images = 1000                                   # test images on Lava's simulator; default: 1000
    store = "float32"                                   # of checkpoints; default: float16
    large_files = ["model-T4.net"]                      # above 3 MB, and yet in the repository; default: none
    omitted_files = ["model-T1.net"]                    # up to 3 MB, and yet not in the repository; default: none
    further_seeds = [1, 2]                              # everything again with these seeds; default: none
    threads = 2                                         # of a training; default: all cores
    processor = "AMD EPYC"                              # that trained the checkpoints; default: not on the card

    [[checkpoint]]                                      # the first one is the CNN that accuracies are compared with
    file = "cnn.safetensors"
    train = "--data mnist"
    threads = 1                                         # as above, for this one
    further = true                                      # a starting point of its own, from which no file is exported

    [[export]]                                          # a candidate for each checkpoint and each T
    from = ["cnn.safetensors", "cnn-qcfs-L4.safetensors"]
    timesteps = [4, 8]
    options = ""

`build` trains every checkpoint, with seed 0 (or ``seed = 1``, or its own ``--seed``), exports every candidate to
FOLDER-candidates and runs it on the validation images with `ref`. Candidates from the first checkpoint are *converted*,
the others *fine-tuned*. For each T and kind the candidate with the most correct images is kept (if tied, the first):
``model-T4.net`` is the better of the two kinds, the other has the name of its kind, such as ``converted-T4.net``. Among
the files ``model-T*.net`` that allow all T, the card names the best one over all T on the first 1,000 of these images.
Test images only measure: all of them by `ref`, the first ones by Lava's simulator, which must give the same output
potentials. Further seeds go to FOLDER-seed-1 and so on; only their accuracies are kept, in ``card.json`` and its table
``README.md``. An interrupted build continues where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import torch
from netx_cards import CONVERTED, FINE_TUNED, card_page, read_card
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from loihi_convert import netx
from loihi_convert.__main__ import exit_code
from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.backends.reference import run_network
from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.models import ResidualBlock, build_model
from loihi_convert.cnn.recipe import paper_architecture
from loihi_convert.cnn.training import resume_path
from loihi_convert.data import Dataset, DataSplits, load_data
from loihi_convert.errors import InputError
from loihi_convert.ground.files import sha256, write_atomically
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ground.statistics import wilson_interval
from loihi_convert.pipeline import running
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.report import paper

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_FILE: Final = 3_000_000
"""Bytes of a file that goes into the repository; larger ones are built by the commands of the card, unless a plan
names them."""

SINGLE_IMAGES: Final = 1_000
"""Validation images that choose the best single file."""

_PLAN: Final = "build.toml"

Kept = TypeVar("Kept", list[int], list[dict[str, Any]], dict[str, Any])


class Trained(BaseModel):
    """A checkpoint of the plan; ``further``: a starting point of its own."""

    model_config = ConfigDict(frozen=True)

    file: str
    train: str
    further: bool = False
    threads: int | None = None
    processor: str | None = None


class Exports(BaseModel):
    """Files of the plan that are exported with the same options."""

    source: tuple[str, ...] = Field(alias="from", min_length=1)
    timesteps: tuple[int, ...] = Field(min_length=1)
    options: str = ""


class Candidate(NamedTuple):
    """A file of the plan: its checkpoint, the T it is balanced for, further options of `export`, and its kind."""

    source: str
    timesteps: int
    options: str
    kind: str


class Plan(BaseModel):
    """The contents of ``build.toml``."""

    checkpoint: tuple[Trained, ...]
    export: tuple[Exports, ...] = Field(min_length=1)
    seed: int = 0
    store: str = "float16"
    sim_images: int = 1_000
    large_files: tuple[str, ...] = ()
    omitted_files: tuple[str, ...] = ()
    further_seeds: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _require_known_checkpoints(self) -> Plan:
        if unknown := {one.source for one in self.candidates} - {item.file for item in self.checkpoint}:
            raise ValueError(f"exports {', '.join(sorted(unknown))}")
        return self

    @property
    def candidates(self) -> list[Candidate]:
        """Its files, one for each checkpoint and T of an export."""
        return [
            Candidate(source, timesteps, item.options, CONVERTED if source == self.checkpoint[0].file else FINE_TUNED)
            for item in self.export
            for source in item.source
            for timesteps in item.timesteps
        ]

    def stores(self, name: str, size: int) -> bool:
        """Whether a file of ``size`` bytes goes into the repository."""
        return name in self.large_files or (size <= LARGEST_FILE and name not in self.omitted_files)


@dataclass(frozen=True)
class Exported:
    """An exported candidate, and its number of correct validation images."""

    path: Path
    candidate: Candidate
    correct: int


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build_verb = verbs.add_parser("build")
    build_verb.add_argument("folder", type=Path)
    build_verb.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    return exit_code(lambda: build(arguments.folder, arguments.data_root))


def build(folder: Path, data_root: Path | None) -> None:
    """Make everything that is missing in ``folder``, and its card."""
    plan = read_plan(folder)
    card = measure(folder, plan, *export_all(folder, plan, data_root))
    if plan.further_seeds:
        card["further_seeds"] = [again(folder, plan, seed, data_root) for seed in plan.further_seeds]
    write_atomically(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    write_atomically(folder / "README.md", card_page(card).encode())
    print(card_page(card), end="")


def export_all(folder: Path, plan: Plan, data_root: Path | None) -> tuple[list[Exported], DataSplits]:
    """Train and export everything that is missing; return the candidates and the images."""
    for item in plan.checkpoint:
        train(item, folder, plan, data_root)
    splits = load_data(checkpoint.load(folder / plan.checkpoint[0].file).data, data_root)
    work = folder.with_name(f"{folder.name}-candidates")
    work.mkdir(exist_ok=True)
    return [export(candidate, folder, work, splits, data_root) for candidate in plan.candidates], splits


def again(folder: Path, plan: Plan, seed: int, data_root: Path | None) -> dict[str, Any]:
    """Do the same with another seed in a folder of its own; return its accuracies for the card."""
    other = folder.with_name(f"{folder.name}-seed-{seed}")
    other.mkdir(exist_ok=True)
    needed = tuple(item for item in plan.checkpoint if not item.further)
    exported, splits = export_all(other, plan.model_copy(update={"checkpoint": needed, "seed": seed}), data_root)
    return {
        "seed": seed,
        "cnn_test_accuracy": checkpoint.load(other / needed[0].file).test_accuracy,
        "networks": [
            {**_identity(one), "test": _test_results(one, [one.candidate.timesteps], splits)}
            for one in chosen_files(exported).values()
        ],
    }


def read_plan(folder: Path) -> Plan:
    """Return the plan in ``folder``."""
    path = folder / _PLAN
    try:
        text = tomllib.loads(path.read_text())
        shared = {name: text[name] for name in ("threads", "processor") if name in text}
        return Plan.model_validate(text | {"checkpoint": [shared | item for item in text.get("checkpoint", ())]})
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"not a plan ({error})", where=path, hint="tools/netx_models.py shows one.") from error


def train_command(item: Trained, plan: Plan) -> str:
    """Return the command that trains a checkpoint."""
    threads = "" if item.threads is None else f"OMP_NUM_THREADS={item.threads} "
    return f"{threads}loihi-convert {train_words(item, plan)}"


def train_words(item: Trained, plan: Plan) -> str:
    """Return the command that trains a checkpoint, without the name of the program."""
    store = "" if plan.store == "float32" else f" --store {plan.store}"
    seed = "" if "--seed" in shlex.split(item.train) else f" --seed {plan.seed}"
    return f"train {item.train} --test{store}{seed} -o {shlex.quote(item.file)}"


def train(item: Trained, folder: Path, plan: Plan, data_root: Path | None) -> None:
    """Train a checkpoint if it is missing; continue if that was interrupted.

    Raises
    ------
    InputError
        If it was trained by another command, as the card of the folder has it.
    """
    path, words = folder / item.file, train_words(item, plan)
    if not path.exists():
        _command(f"{words}{' --resume' if resume_path(path).exists() else ''}", folder, data_root, item.threads)
    elif (folder / "card.json").exists():
        card = read_card(folder)
        for one in (*card["checkpoints"], *card.get("further_checkpoints", ())):
            is_it = (one["file"], one["sha256"]) == (item.file, sha256(path))
            if is_it and one["command"] != train_command(item, plan):
                raise InputError(f"was trained by `{one['command']}`", where=path, hint="Delete it to train it again.")


def export_words(candidate: Candidate, name: str) -> str:
    """Return the command that exports a candidate as ``name``, without the name of the program."""
    options = f" {candidate.options}" if candidate.options else ""
    source, output = shlex.quote(candidate.source), shlex.quote(name)
    return f"export {source} -T {candidate.timesteps}{options} -o {output}"


def export(candidate: Candidate, folder: Path, work: Path, splits: DataSplits, data_root: Path | None) -> Exported:
    """Export a candidate to ``work`` if it is missing, and run it on the validation images."""
    options = "".join(f" {word}" for word in shlex.split(candidate.options)).replace(" --", "-").replace(" ", "")
    path = work / f"{Path(candidate.source).stem}-T{candidate.timesteps}{options}.net"
    if not path.exists():
        _command(export_words(candidate, str(path.resolve())), folder, data_root)
    if netx.read(path).provenance["model"]["sha256"] != sha256(folder / candidate.source):
        raise InputError(f"was not exported from {candidate.source} as it is now", where=path, hint="Delete it.")
    found = remembered(path, "validation", lambda: correct_at(path, (candidate.timesteps,), splits.validation))
    return Exported(path, candidate, found[0])


def _command(words: str, folder: Path, data_root: Path | None, threads: int | None = None) -> None:
    """Run ``loihi-convert`` in ``folder``."""
    variables = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    root = [] if data_root is None else ["--data-root", str(data_root.resolve())]
    print(f"loihi-convert {words}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "loihi_convert", *shlex.split(words), *root]
    done = subprocess.run(command, cwd=folder, check=False, env={**os.environ, **variables})
    if done.returncode:
        raise InputError(f"loihi-convert {words} failed (exit code {done.returncode})", where=folder)


def remembered(path: Path, name: str, measured: Callable[[], Kept]) -> Kept:
    """Return the result ``name`` for the integers in the file at ``path``, measured once and kept beside it."""
    kept, digest = path.with_suffix(".json"), netx.read_stored(path).integers_sha256
    stored = json.loads(kept.read_text()) if kept.exists() else {}
    if stored.get("integers_sha256") != digest:
        stored = {"integers_sha256": digest}
    if name not in stored:
        stored[name] = measured()
        write_atomically(kept, json.dumps(stored).encode())
    found: Kept = stored[name]
    return found


def correct_at(path: Path, timesteps: Sequence[int], images: Dataset) -> list[int]:
    """Return the number of ``images`` that the file classifies correctly after each of ``timesteps``."""
    with progress_bar(f"{path.name} on {len(images):,} images"):
        predictions = run_network(netx.read(path), images.images, max(timesteps)).predictions
    return [int((predictions[:, t - 1] == images.known_labels).sum()) for t in timesteps]


def chosen_files(exported: Sequence[Exported]) -> dict[str, Exported]:
    """Return, by name, the file of each T and kind with the most correct validation images; if tied, the first.

    ``model-T4.net`` is the better of both kinds; the other one has the name of its kind, as in ``converted-T4.net``.
    """
    chosen = {}
    for timesteps in sorted({one.candidate.timesteps for one in exported}):
        at_t = [one for one in exported if one.candidate.timesteps == timesteps]
        best = max(at_t, key=lambda one: one.correct)
        for kind in (CONVERTED, FINE_TUNED):
            if of_kind := [one for one in at_t if one.candidate.kind == kind]:
                one = max(of_kind, key=lambda one: one.correct)
                chosen[f"{'model' if one is best else kind}-T{timesteps}.net"] = one
    return chosen


def best_single(files: Sequence[Exported], timesteps: Sequence[int], images: Dataset) -> Exported | None:
    """Return the file with the most correct ``images`` over all T, among files whose potentials fit for all T.

    None if there is no such file.
    """

    def correct(one: Exported) -> int:
        name = f"validation, first {len(images)}, at {list(timesteps)}"
        return sum(remembered(one.path, name, lambda: correct_at(one.path, timesteps, images)))

    fitting = [one for one in files if netx.read(one.path).max_timesteps >= max(timesteps)]
    return max(fitting, key=correct, default=None)


def measure(folder: Path, plan: Plan, exported: Sequence[Exported], splits: DataSplits) -> dict[str, Any]:
    """Copy the chosen files to ``folder``, run them on test images, and return the card."""
    steps = sorted({one.candidate.timesteps for one in exported})
    chosen = chosen_files(exported)
    models = [one for name, one in chosen.items() if name.startswith("model-")]
    single = best_single(models, steps, splits.validation[:SINGLE_IMAGES])
    cnn = checkpoint.load(folder / plan.checkpoint[0].file)
    checkpoints = {item: _checkpoint(item, folder, plan) for item in plan.checkpoint}
    further = [card for item, card in checkpoints.items() if item.further]
    return {
        **_described_cnn(cnn, splits),
        "checkpoints": [card for item, card in checkpoints.items() if not item.further],
        "networks": [
            _network(name, one, exported, folder, plan, splits, steps if one is single else [one.candidate.timesteps])
            for name, one in chosen.items()
        ],
        **({} if single is None else {"best_single_file": _single(single, steps, splits)}),
        **({"further_checkpoints": further} if further else {}),
    }


def _described_cnn(cnn: Checkpoint, splits: DataSplits) -> dict[str, Any]:
    """Return the card's fields on the CNN before fine-tuning, and on the images."""
    theirs = paper.cnn_accuracy(splits.name) if cnn.architecture == paper_architecture(splits.name) else None
    return {
        "data": splits.name,
        "architecture": cnn.architecture,
        "layers": notation(cnn.architecture, cnn.input_shape, len(cnn.classes)),
        "classes": list(cnn.classes),
        "seed": cnn.seed,
        "cnn_test_accuracy": cnn.test_accuracy,
        **({} if theirs is None else {"paper_cnn_accuracy": theirs}),
        "test_images": len(splits.test),
        "validation_images": len(splits.validation),
    }


def notation(architecture: str, input_shape: tuple[int, int, int], classes: int) -> str:
    """Return the CNN's layers in the notation of the literature: ``28x28-12c5-2ap-64c5-2ap-10o``.

    ``12c5`` is a convolution with 12 channels and a 5 x 5 kernel, ``2ap`` 2 x 2 average pooling, ``2mp`` max pooling,
    ``[16c3-16c3]`` a residual block, ``gap`` the mean of each map, ``512fc`` a hidden dense layer and ``10o`` the
    outputs; ReLU follows every layer but the last.
    """
    channels, height, width = input_shape
    parts = [f"{height}x{width}" + (f"x{channels}" if channels > 1 else "")]
    with torch.device("meta"):
        modules = list(build_model(architecture, input_shape, classes).children())
    for module in modules:
        if isinstance(module, nn.Conv2d):
            parts.append(f"{module.out_channels}c{module.kernel_size[0]}")
        elif isinstance(module, nn.AvgPool2d):
            parts.append(f"{module.kernel_size}ap")
        elif isinstance(module, nn.MaxPool2d):
            parts.append(f"{module.kernel_size}mp")
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            parts.append("gap")
        elif isinstance(module, ResidualBlock):
            parts.append(f"[{module.conv1.out_channels}c3-{module.conv2.out_channels}c3]")
        elif isinstance(module, nn.Linear):
            parts.append(f"{module.out_features}{'o' if module is modules[-1] else 'fc'}")
    return "-".join(parts)


def _identity(one: Exported) -> dict[str, Any]:
    """Return the card's fields that tell a file from others, whoever made it."""
    return {
        "timesteps": one.candidate.timesteps,
        "kind": one.candidate.kind,
        "integers_sha256": netx.read_stored(one.path).integers_sha256,
    }


def _network(
    name: str,
    one: Exported,
    exported: Sequence[Exported],
    folder: Path,
    plan: Plan,
    splits: DataSplits,
    steps: Sequence[int],
) -> dict[str, Any]:
    """Copy a file, run it on test images up to the last of ``steps``, and return its entry for the card, at its T."""
    timesteps, kind = one.candidate.timesteps, one.candidate.kind
    is_papers = checkpoint.load(folder / one.candidate.source).architecture == paper_architecture(splits.name)
    provenance = netx.read(one.path).provenance
    return {
        **_file(one.path, folder, name, plan),
        **_identity(one),
        "checkpoint": one.candidate.source,
        "balance": provenance["balance"],
        "is_corrected": "calibration" in provenance,
        "weight_bits": provenance["quantize"]["weight_bits"],
        "validation_correct": one.correct,
        "validation_correct_of_all": {
            export_words(other.candidate, name): other.correct
            for other in exported
            if (other.candidate.timesteps, other.candidate.kind) == (timesteps, kind)
        },
        "test": [row for row in _test_results(one, steps, splits) if row["timesteps"] == timesteps],
        **({"sim": _sim(one, plan.sim_images, splits)} if plan.sim_images else {}),
        **(papers_best(splits.name, timesteps) if is_papers and kind == CONVERTED else {}),
        "commands": [f"loihi-convert {export_words(one.candidate, name)}", f"loihi-convert run {name}"],
    }


def papers_best(data: str, timesteps: int) -> dict[str, Any]:
    """Return the best accuracy of the paper's method at T over its factors alpha, in %, as a field of a card."""
    found = [
        cell
        for cell in paper.cells()
        if (cell.data, cell.method, cell.timesteps) == (data, "ngu-lee", timesteps) and cell.accuracy is not None
    ]
    if not found:
        return {}
    best = max(found, key=lambda cell: cell.accuracy or 0.0)
    return {"paper": {"accuracy": best.accuracy, "alpha": best.alpha}}


def _file(path: Path, folder: Path, name: str, plan: Plan) -> dict[str, Any]:
    """Copy a file, unless it exists or does not go into the repository, and return its description."""
    size = path.stat().st_size
    is_stored = plan.stores(name, size)
    if is_stored and path.resolve() != (folder / name).resolve():
        write_atomically(folder / name, path.read_bytes())
    return {"file": name, "bytes": size, "sha256": sha256(path), "in_repository": is_stored}


def _checkpoint(item: Trained, folder: Path, plan: Plan) -> dict[str, Any]:
    found = checkpoint.load(folder / item.file)
    return {
        **_file(folder / item.file, folder, item.file, plan),
        "stored_as": found.stored_as,
        "qcfs_levels": found.qcfs_levels,
        "validation_accuracy": found.validation_accuracy,
        "test_accuracy": found.test_accuracy,
        "recipe": {key: value for key, value in found.recipe.items() if key != "validation_accuracy_per_epoch"},
        **({} if item.processor is None else {"processor": item.processor}),
        "command": train_command(item, plan),
    }


def _single(one: Exported, timesteps: Sequence[int], splits: DataSplits) -> dict[str, Any]:
    """Return the card entry of the best single file."""
    own = one.candidate.timesteps
    return {
        "checkpoint": one.candidate.source,
        "timesteps": own,
        "sha256": sha256(one.path),
        "test": _test_results(one, timesteps, splits),
        "file": f"model-T{own}.net",
        "commands": [f"loihi-convert run model-T{own}.net -T {max(timesteps)}"],
    }


def _test_results(one: Exported, steps: Sequence[int], splits: DataSplits) -> list[dict[str, Any]]:
    """Return `tested`, measured once."""
    name = "test" if list(steps) == [one.candidate.timesteps] else f"test at {list(steps)}"
    return remembered(one.path, name, lambda: tested(one.path, steps, splits))


def tested(path: Path, timesteps: Sequence[int], splits: DataSplits) -> list[dict[str, Any]]:
    """Return the file's results on all test images with `ref` after each of ``timesteps``."""
    count = len(splits.test)
    return [
        {"timesteps": t, "correct": right, "accuracy": right / count, "interval": list(wilson_interval(right, count))}
        for t, right in zip(timesteps, correct_at(path, timesteps, splits.test), strict=True)
    ]


def _sim(one: Exported, count: int, splits: DataSplits) -> dict[str, Any]:
    """Return the file's results on the first ``count`` test images with Lava's simulator."""

    def measured() -> dict[str, Any]:
        with open_backend("sim", BackendOptions(lava_layout="layers")) as lava:
            part = splits.test[:count]
            # Raises an error if any potential differs.
            options = RunOptions((one.candidate.timesteps,))
            ran = running.run(one.path, part, lava, options)
            right = int((ran.result.predictions[:, -1] == part.known_labels).sum())
            return {"images": len(part), "equal_to_ref": ran.equal_to_reference, "correct": right}

    return remembered(one.path, f"sim on {count}", measured)


if __name__ == "__main__":
    sys.exit(main())
