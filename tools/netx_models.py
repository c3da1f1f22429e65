"""Build a folder of netx_models/: the best network for each T, chosen on validation images, with its card.

    python tools/netx_models.py build FOLDER CNN.safetensors QCFS.safetensors ... [-T 1,2,4,8,64] [--sim-images 1000]
    python tools/netx_models.py table FOLDER [FOLDER ...]

`build` exports every checkpoint for every T by `export`'s defaults and runs each file on the validation images, by
`ref`, in fixed point. For each T the file with most of them right is kept (among equals the one of the checkpoint named
first); of these the one that is best at all T together, on the first 1,000 of the same images, is named. Only then test
images are looked at: all by `ref`, the first of them by Lava's simulator, every potential compared. It is all written
to ``card.json`` and, as a table, to ``README.md``. The first checkpoint is the CNN that the others were fine-tuned
from, and what accuracies are compared with; ``--tuned-only`` takes no file from itself. A build that was interrupted
goes on with the files it finds.

`table` prints the mean over several folders, of seeds that were fixed beforehand, as Markdown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmark_tables import markdown

from loihi_convert import netx, pipeline
from loihi_convert.backends import open_backend
from loihi_convert.backends.reference import run_network
from loihi_convert.cli.options import parse_timesteps
from loihi_convert.cnn import checkpoint
from loihi_convert.data import Dataset, DataSplits, load_data
from loihi_convert.files import sha256, write_atomically
from loihi_convert.progress import bar
from loihi_convert.results.schema import wilson_interval

LARGEST_FILE: Final = 3_000_000
"""Bytes of a file that goes into the repository; larger ones are built by the commands of the card."""


SINGLE_IMAGES: Final = 1_000
"""Validation images that choose the best single file."""


@dataclass(frozen=True)
class Candidate:
    """An exported file, the T it is balanced for, and how many validation images it gets right then."""

    path: Path
    source: Path
    timesteps: int
    correct: int


def main() -> int:
    """Build a folder, or print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build")
    build.add_argument("folder", type=Path)
    build.add_argument("checkpoints", type=Path, nargs="+")
    build.add_argument("-T", "--timesteps", default="1,2,4,8,64")
    build.add_argument("--tuned-only", action="store_true", help="do not export the first checkpoint")
    build.add_argument("--work", type=Path, help="folder for all exported files; default: FOLDER-candidates")
    build.add_argument("--sim-images", type=int, default=1000)
    build.add_argument("--data-root", type=Path)
    table = verbs.add_parser("table")
    table.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.verb == "table":
        print(mean_table([read_card(folder) for folder in arguments.folders]), end="")
        return 0
    timesteps = parse_timesteps(arguments.timesteps)
    work = arguments.work or arguments.folder.with_name(f"{arguments.folder.name}-candidates")
    work.mkdir(parents=True, exist_ok=True)
    splits = load_data(checkpoint.load(arguments.checkpoints[0]).data, arguments.data_root)
    tried = arguments.checkpoints[int(arguments.tuned_only) :]
    candidates = export_all(tried, timesteps, work, splits)
    card = measure(arguments.folder, arguments.checkpoints, timesteps, candidates, splits, arguments.sim_images)
    write_atomically(arguments.folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    write_atomically(arguments.folder / "README.md", card_page(card).encode())
    print(card_page(card), end="")
    return 0


def export_all(
    checkpoints: Sequence[Path], timesteps: Sequence[int], work: Path, splits: DataSplits
) -> list[Candidate]:
    """Export each checkpoint for each T into ``work``, where it is not there yet; run all on validation images."""
    found = []
    for source in checkpoints:
        for steps in timesteps:
            path = work / f"{source.stem}-T{steps}.net"
            if not path.exists():
                pipeline.export(source, path, (steps,), splits.calibration_images(), bars=bar)
            right = correct_at(path, (steps,), splits.validation)[0]
            found.append(Candidate(path, source, steps, right))
    return found


def correct_at(path: Path, timesteps: Sequence[int], images: Dataset) -> list[int]:
    """Return how many of ``images`` the file gets right, read after each of ``timesteps``."""
    with bar(f"{path.name} on {len(images):,} images") as progress:
        predictions = run_network(netx.read(path), images.images, max(timesteps), progress=progress).predictions
    return [int((predictions[:, t - 1] == images.known_labels).sum()) for t in timesteps]


def best_for(candidates: Sequence[Candidate], timesteps: int) -> Candidate:
    """Return the file balanced for T with most validation images right; among equals, the first."""
    return max((one for one in candidates if one.timesteps == timesteps), key=lambda one: one.correct)


def best_single(files: Sequence[Candidate], timesteps: Sequence[int], images: Dataset) -> Candidate:
    """Return the file with most of ``images`` right at all T together, of those whose potentials fit for all T."""
    fitting = [one for one in files if netx.read(one.path).proven_timesteps >= max(timesteps)]
    return max(fitting, key=lambda one: sum(correct_at(one.path, timesteps, images)))


def measure(
    folder: Path,
    checkpoints: Sequence[Path],
    timesteps: Sequence[int],
    candidates: Sequence[Candidate],
    splits: DataSplits,
    sim_images: int,
) -> dict[str, Any]:
    """Copy the chosen files to ``folder``, run them on test images, and return the card."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {t: best_for(candidates, t) for t in timesteps}
    single = best_single(list(chosen.values()), timesteps, splits.validation[:SINGLE_IMAGES])
    cnn = checkpoint.load(checkpoints[0])
    validation_count = len(splits.validation)
    networks = []
    for t, one in chosen.items():
        name = f"model-T{t}.net"
        networks.append(
            {
                **_file(one.path, folder, name),
                "timesteps": t,
                "checkpoint": one.source.name,
                "balance": netx.read(one.path).provenance["balance"],
                "is_corrected": "calibration" in netx.read(one.path).provenance,
                "weight_bits": netx.read(one.path).provenance["quantize"]["weight_bits"],
                "validation_correct": one.correct,
                "validation_correct_of_all": {
                    other.source.name: other.correct for other in candidates if other.timesteps == t
                },
                **_tested(one.path, (t,), splits, sim_images),
                "commands": _export_command(one, name),
            }
        )
    used = {checkpoints[0], *(one.source for one in chosen.values())}
    return {
        "data": splits.name,
        "architecture": cnn.architecture,
        "classes": list(cnn.classes),
        "seed": cnn.seed,
        "cnn_test_accuracy": cnn.test_accuracy,
        "test_images": len(splits.test),
        "validation_images": validation_count,
        "checkpoints": [_checkpoint(path, folder) for path in checkpoints if path in used],
        "networks": networks,
        "best_single_file": {
            "checkpoint": single.source.name,
            "timesteps": single.timesteps,
            "sha256": sha256(single.path),
            **_tested(single.path, timesteps, splits, 0),
            "file": f"model-T{single.timesteps}.net",
            "commands": [f"loihi-convert run model-T{single.timesteps}.net -T {max(timesteps)}"],
        },
    }


def _file(path: Path, folder: Path, name: str) -> dict[str, Any]:
    """Copy a file, unless it is too large for the repository, and describe it."""
    size = path.stat().st_size
    if size <= LARGEST_FILE:
        shutil.copyfile(path, folder / name)
    return {"file": name, "bytes": size, "sha256": sha256(path), "in_repository": size <= LARGEST_FILE}


def _checkpoint(path: Path, folder: Path) -> dict[str, Any]:
    found = checkpoint.load(path)
    recipe = {key: value for key, value in found.recipe.items() if key != "validation_accuracy_per_epoch"}
    command = f"loihi-convert train --data {found.data} --seed {found.seed} -o {path.name}"
    if found.qcfs_levels is not None:
        command = f"loihi-convert train --qcfs {found.qcfs_levels} --from CNN --seed {found.seed} -o {path.name}"
    return {
        **_file(path, folder, path.name),
        "qcfs_levels": found.qcfs_levels,
        "validation_accuracy": found.validation_accuracy,
        "test_accuracy": found.test_accuracy,
        "recipe": recipe,
        "command": command,
    }


def _export_command(one: Candidate, name: str) -> list[str]:
    provenance = netx.read(one.path).provenance
    # A file that was in the work folder already may have been exported with a method of its own.
    method = "" if provenance.get("choice") else f" --balance {provenance['balance']['method']}"
    method += " --correct" if method and "calibration" in provenance else ""
    export = f"loihi-convert export {one.source.name} -T {one.timesteps}{method} -o {name}"
    return [export, f"loihi-convert run {name}"]


def _tested(path: Path, timesteps: Sequence[int], splits: DataSplits, sim_images: int) -> dict[str, Any]:
    """What the file does with test images: all by `ref`, the first by Lava."""
    count = len(splits.test)
    found: dict[str, Any] = {
        "test": [
            {
                "timesteps": t,
                "correct": right,
                "accuracy": right / count,
                "interval": list(wilson_interval(right, count)),
            }
            for t, right in zip(timesteps, correct_at(path, timesteps, splits.test), strict=True)
        ]
    }
    if sim_images:
        with open_backend("sim", lava_layout="layers") as lava:
            part = splits.test[:sim_images]
            # Raises where a single potential differs.
            ran = pipeline.run(path, part, lava, max(timesteps), bars=bar)
            sim_right = int((ran.result.predictions[:, -1] == part.known_labels).sum())
            found["sim"] = {"images": len(part), "equal_to_ref": ran.equal_to_reference, "correct": sim_right}
    return found


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card in ``folder``."""
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return card


def card_page(card: dict[str, Any]) -> str:
    """Return the README of a folder, made of its card alone."""
    cnn, count = 100 * card["cnn_test_accuracy"], card["test_images"]
    rows = []
    for network in card["networks"]:
        (test,) = network["test"]
        accuracy, (low, high) = 100 * test["accuracy"], (100 * bound for bound in test["interval"])
        sim = network.get("sim")
        rows.append(
            (
                str(network["timesteps"]),
                f"{accuracy:.2f} ({low:.2f}..{high:.2f})",
                f"{accuracy - cnn:+.2f}",
                _method(network["balance"]) + (", corrected" if network["is_corrected"] else ""),
                network["checkpoint"],
                f"{network['bytes'] / 1e6:.2f} MB" + ("" if network["in_repository"] else ", not here"),
                f"{sim['equal_to_ref']:,} images" if sim else "",
            )
        )
    header = ("T", "accuracy, %", "to the CNN", "thresholds", "from", "file", "Lava equals `ref` on")
    single = card["best_single_file"]
    curve = ", ".join(f"{100 * point['accuracy']:.2f} at T = {point['timesteps']}" for point in single["test"])
    lines = [
        f"# {card['data']}: {card['architecture']}, seed {card['seed']}",
        "",
        f"CNN before fine-tuning: {cnn:.2f} % of {count:,} test images. One file for each T, in 8-bit weights and "
        f"integer thresholds, chosen on {card['validation_images']:,} validation images; accuracy is that of the "
        f"integers on all {count:,} test images (95 % interval).",
        "",
        markdown(header, rows).rstrip("\n"),
        "",
        f"The best single file, `{single['file']}`: {curve}.",
        "",
        "## Make it again",
        "",
        "```",
        *(
            item["command"].replace("--from CNN", f"--from {card['checkpoints'][0]['file']}")
            for item in card["checkpoints"]
        ),
        *(command for network in (*card["networks"], single) for command in network["commands"]),
        "```",
        "",
        "Training gives the same bits on the same processor, number of threads and torch only; `run` gives the "
        "accuracies above from the files here to the digit. Digests and all that was tried are in `card.json`.",
    ]
    return "\n".join(lines) + "\n"


def _method(balance: dict[str, Any]) -> str:
    percentile = f" {balance['percentile']:g}" if "percentile" in balance else ""
    return f"{balance['method']}{percentile}"


def mean_table(cards: Sequence[dict[str, Any]]) -> str:
    """Return accuracy, and its difference to the CNN's, of several seeds and their mean."""
    steps = [network["timesteps"] for network in cards[0]["networks"]]
    rows = []
    differences = []
    for card in cards:
        cnn = 100 * card["cnn_test_accuracy"]
        accuracies = [100 * network["test"][0]["accuracy"] for network in card["networks"]]
        differences.append([accuracy - cnn for accuracy in accuracies])
        rows.append((f"seed {card['seed']}", f"{cnn:.2f}", *(f"{accuracy:.2f}" for accuracy in accuracies)))
    columns = list(zip(*differences, strict=True))
    rows.append(("mean difference", "", *(f"{statistics.mean(column):+.2f}" for column in columns)))
    return markdown((cards[0]["data"], "CNN", *(f"T = {step}" for step in steps)), rows)


if __name__ == "__main__":
    sys.exit(main())
