"""Build a folder of netx_models/: the best network for each T, chosen on validation images, with its card.

    python tools/netx_models.py build FOLDER CNN.safetensors QCFS.safetensors ... [-T 1,2,4] [--sim-images 1000]
    python tools/netx_models.py extend FOLDER ANOTHER.safetensors ... -T 16,32
    python tools/netx_models.py float16 CNN.safetensors [...]
    python tools/netx_models.py add FOLDER CNN.safetensors [...]
    python tools/netx_models.py table FOLDER [FOLDER ...]

`build` exports every checkpoint for every T with `export`'s defaults. It runs each file on the validation images with
`ref`, in fixed point. For each T it keeps the file with the most correct images (if tied, the checkpoint named first).
Among files whose potentials are proven to fit for all T, it names the best one over all T on the first 1,000 of these
images. Test images are used only afterwards: all of them by `ref`, and the first ones by Lava's simulator, which must
give the same output potentials. The results are written to ``card.json`` and, as a table, to ``README.md``.
The first checkpoint is the CNN that the others were fine-tuned from, and the reference for accuracies; with
``--tuned-only`` it is not exported itself. An interrupted build continues with the files it finds.

If a checkpoint is too large for the repository, but small enough with float16 weights, a float16 copy replaces it. This
copy, ``CNN-float16.safetensors``, is measured and exported instead. `float16` only makes the copies.

`extend` does the same for more checkpoints or more T and keeps the contents of FOLDER. A file is replaced only if a new
one for the same T classifies more validation images correctly. A different checkpoint with an existing name is refused.

`add` adds checkpoints to a folder for further training; the folder's files were not made from them.

`table` prints the mean over several folders with different, predetermined seeds, as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from netx_cards import card_page, mean_table, read_card, recorded_recipe

from loihi_convert import netx, pipeline
from loihi_convert.__main__ import exit_code
from loihi_convert.backends import BackendOptions, open_backend
from loihi_convert.backends.reference import run_network
from loihi_convert.cli.options import parse_timesteps
from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.float16 import in_float16, round_to_float16
from loihi_convert.cnn.models import default_architecture, notation, paper_architecture
from loihi_convert.cnn.recipe import default_recipe, fine_tuning_recipe, paper_recipe
from loihi_convert.data import Dataset, DataSplits, load_data
from loihi_convert.errors import InputError, UsageError
from loihi_convert.files import sha256, write_atomically
from loihi_convert.progress import progress_bar
from loihi_convert.records import wilson_interval
from loihi_convert.report import paper

LARGEST_FILE: Final = 3_000_000
"""Bytes of a file that goes into the repository; larger ones are built by the commands of the card."""


SINGLE_IMAGES: Final = 1_000
"""Validation images that choose the best single file."""


@dataclass(frozen=True)
class Source:
    """A checkpoint to export, and the trained checkpoint; the former may be a float16 copy of the latter."""

    path: Path
    original: Path


@dataclass(frozen=True)
class LoadedFile:
    """An exported file, the T it is balanced for, and its number of correct validation images at that T."""

    path: Path
    source: Path
    timesteps: int
    correct: int


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = _arguments()
    return exit_code(lambda: _do(arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build, extend = (verbs.add_parser(name) for name in ("build", "extend"))
    for verb in (build, extend):
        verb.add_argument("folder", type=Path)
        verb.add_argument("checkpoints", type=Path, nargs="+")
        verb.add_argument("-T", "--timesteps", default="1,2,4,8,16,32,64")
        verb.add_argument("--work", type=Path, help="folder for all exported files; default: FOLDER-candidates")
        verb.add_argument("--sim-images", type=int, default=1000)
        verb.add_argument("--data-root", type=Path)
    build.add_argument("--tuned-only", action="store_true", help="do not export the first checkpoint")
    halve = verbs.add_parser("float16")
    halve.add_argument("checkpoints", type=Path, nargs="+")
    halve.add_argument("--data-root", type=Path)
    add = verbs.add_parser("add")
    add.add_argument("folder", type=Path)
    add.add_argument("checkpoints", type=Path, nargs="+")
    table = verbs.add_parser("table")
    table.add_argument("folders", type=Path, nargs="+")
    return parser.parse_args()


def _do(arguments: argparse.Namespace) -> None:
    """Build or extend a folder, add to it, print a table, or make copies."""
    if arguments.verb == "table":
        print(mean_table([read_card(folder) for folder in arguments.folders]), end="")
        return
    if arguments.verb == "add":
        write_card(arguments.folder, with_checkpoints(arguments.folder, arguments.checkpoints))
        return
    data = checkpoint.load(arguments.checkpoints[0]).data
    if arguments.verb == "float16":
        splits = load_data(data, arguments.data_root)
        for path in arguments.checkpoints:
            print(float16_copy(path, path.parent, splits))
        return
    timesteps = parse_timesteps(arguments.timesteps)
    if arguments.sim_images < 0:
        raise UsageError(f"found {arguments.sim_images}", where="--sim-images", expected="must be at least 0")
    extends = arguments.verb == "extend"
    before = card_to_extend(arguments.folder, data) if extends else None
    if before is not None:
        refuse_others(arguments.folder, before, arguments.checkpoints)
    splits = load_data(data, arguments.data_root)
    work = arguments.work or arguments.folder.with_name(f"{arguments.folder.name}-candidates")
    work.mkdir(parents=True, exist_ok=True)
    sources = [fitting(path, work, splits) for path in arguments.checkpoints]
    if before is not None:
        refuse_others(arguments.folder, before, [source.path for source in sources])
    tried = [source.path for source in sources[0 if extends else int(arguments.tuned_only) :]]
    candidates = export_all(tried, timesteps, work, splits)
    card = measure(arguments.folder, sources, timesteps, candidates, splits, arguments.sim_images, before)
    write_card(arguments.folder, card)
    print(card_page(card), end="")


def card_to_extend(folder: Path, data: str) -> dict[str, Any]:
    """Return the card in ``folder``, which must be for this data set."""
    card = read_card(folder)
    if card["data"] != data:
        raise InputError(
            f"holds networks of {card['data']}, but the first checkpoint was trained on {data}", where=folder
        )
    return card


def refuse_others(folder: Path, card: dict[str, Any], paths: Sequence[Path]) -> None:
    """Raise an `InputError` if ``folder`` holds a file with the same name as one of ``paths`` but other contents."""
    items = (*card["checkpoints"], *card["networks"], *card.get("further_checkpoints", ()))
    held = {item["file"]: item["sha256"] for item in items}
    for path in paths:
        if path.name in held and sha256(path) != held[path.name]:
            raise InputError(f"differs from the {path.name} in {folder}", where=path, hint="Give it another name.")


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write ``card`` and its page to ``folder``."""
    write_atomically(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    write_atomically(folder / "README.md", card_page(card).encode())


def with_checkpoints(folder: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Copy checkpoints to ``folder``; return its card with them, replacing entries of the same names."""
    card = read_card(folder)
    taken = {item["file"] for item in (*card["checkpoints"], *card["networks"])}
    added = {item["file"]: item for item in card.get("further_checkpoints", ())}
    loaded = {path: checkpoint.load(path) for path in paths}
    for path, found in loaded.items():
        if path.name in taken or path.stat().st_size > LARGEST_FILE or found.data != card["data"]:
            raise InputError(
                f"trained on {found.data}, {path.stat().st_size:,} bytes",
                where=path,
                expected=f"{folder} takes checkpoints of {card['data']}, up to {LARGEST_FILE:,} bytes, with other "
                f"names than {', '.join(sorted(taken))}",
            )
    for path, found in loaded.items():
        added[path.name] = _described(found, _file(path, folder, path.name))
    return {**card, "further_checkpoints": [added[name] for name in sorted(added)]}


def fitting(path: Path, work: Path, splits: DataSplits) -> Source:
    """Return the checkpoint, or a float16 copy if only that is small enough for the repository."""
    trained = checkpoint.load(path)
    weights = sum(tensor.numel() for tensor in trained.state.values())
    if path.stat().st_size <= LARGEST_FILE or trained.stored_as == "float16" or 2 * weights > LARGEST_FILE:
        return Source(path, path)
    return Source(float16_copy(path, work, splits), path)


def float16_copy(path: Path, folder: Path, splits: DataSplits) -> Path:
    """Return the file in ``folder`` with the checkpoint's weights as float16; create it if it is missing."""
    trained = checkpoint.load(path)
    copy = folder / f"{path.stem}-float16{path.suffix}"
    rounded = round_to_float16(trained.state, path)
    if not copy.exists() or checkpoint.digest("", checkpoint.load(copy).state) != checkpoint.digest("", rounded):
        checkpoint.save(in_float16(trained, splits, copy), copy)
    return copy


def export_all(
    checkpoints: Sequence[Path], timesteps: Sequence[int], work: Path, splits: DataSplits
) -> list[LoadedFile]:
    """Export each checkpoint for each T to ``work`` if missing; run all files on validation images."""
    found = []
    for source in checkpoints:
        for steps in timesteps:
            path = work / f"{source.stem}-T{steps}.net"
            if not path.exists():
                pipeline.export(source, path, (steps,), splits.calibration_images(), bars=progress_bar)
            if netx.read(path).provenance["model"]["sha256"] != sha256(source):
                raise InputError(
                    f"was not exported from {source} as it is now", where=path, hint="Delete it, or name --work."
                )
            right = correct_at(path, (steps,), splits.validation)[0]
            found.append(LoadedFile(path, source, steps, right))
    return found


def correct_at(path: Path, timesteps: Sequence[int], images: Dataset) -> list[int]:
    """Return the number of ``images`` that the file classifies correctly after each of ``timesteps``."""
    with progress_bar(f"{path.name} on {len(images):,} images") as progress:
        predictions = run_network(netx.read(path), images.images, max(timesteps), progress=progress).predictions
    return [int((predictions[:, t - 1] == images.known_labels).sum()) for t in timesteps]


def best_for(candidates: Sequence[LoadedFile], timesteps: int) -> LoadedFile:
    """Return the file balanced for T with the most correct validation images; if tied, the first."""
    return max((one for one in candidates if one.timesteps == timesteps), key=lambda one: one.correct)


def best_single(files: Sequence[LoadedFile], timesteps: Sequence[int], images: Dataset) -> LoadedFile | None:
    """Return the file with the most correct ``images`` over all T, among files whose potentials fit for all T.

    None if there is no such file.
    """
    fitting = [one for one in files if netx.read(one.path).max_timesteps >= max(timesteps)]
    return max(fitting, key=lambda one: sum(correct_at(one.path, timesteps, images)), default=None)


def measure(
    folder: Path,
    sources: Sequence[Source],
    timesteps: Sequence[int],
    candidates: Sequence[LoadedFile],
    splits: DataSplits,
    sim_images: int,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Copy the chosen files to ``folder``, run them on test images, and return the card.

    ``before`` is the card of the existing files; each is kept unless a candidate is better for the same T.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cnn = checkpoint.load(sources[0].path)
    if before is None:
        before = _empty_card(cnn, splits)
    kept = {item["timesteps"]: item for item in before["networks"]}
    chosen = {t: best_for(candidates, t) for t in timesteps}
    chosen = {t: one for t, one in chosen.items() if t not in kept or one.correct > kept[t]["validation_correct"]}
    networks = {
        **kept,
        **{t: _network(one, candidates, folder, splits, sim_images) for t, one in chosen.items()},
    }
    every_t = sorted(networks)
    # A file that is too large for the folder stays where it was exported.
    files = [
        chosen.get(t, LoadedFile(folder / item["file"], Path(item["checkpoint"]), t, item["validation_correct"]))
        for t, item in sorted(networks.items())
    ]
    single = best_single([one for one in files if one.path.exists()], every_t, splits.validation[:SINGLE_IMAGES])
    used = {one.source for one in chosen.values()} | (set() if before["networks"] else {sources[0].path})
    # The checkpoint that another was fine-tuned from may already be in the folder.
    originals = [*(source.original for source in sources), *sorted(folder.glob("*.safetensors"))]
    checkpoints = {item["file"]: item for item in before["checkpoints"]}
    checkpoints |= {
        source.path.name: _checkpoint(source, originals, folder) for source in sources if source.path in used
    }
    further = [item for item in before.get("further_checkpoints", ()) if item["file"] not in checkpoints]
    return {
        **{key: value for key, value in before.items() if key not in ("best_single_file", "further_checkpoints")},
        "checkpoints": list(checkpoints.values()),
        "networks": [networks[t] for t in every_t],
        **({} if single is None else {"best_single_file": _single(single, every_t, splits)}),
        **({"further_checkpoints": further} if further else {}),
    }


def _empty_card(cnn: Checkpoint, splits: DataSplits) -> dict[str, Any]:
    """Return the card of an empty folder; ``cnn`` is the CNN before fine-tuning."""
    return {
        "data": splits.name,
        "architecture": cnn.architecture,
        "layers": notation(cnn.architecture, cnn.input_shape, len(cnn.classes)),
        "classes": list(cnn.classes),
        "seed": cnn.seed,
        "cnn_test_accuracy": cnn.test_accuracy,
        **(papers_cnn(splits.name) if cnn.architecture == paper_architecture(splits.name) else {}),
        "test_images": len(splits.test),
        "validation_images": len(splits.validation),
        "checkpoints": [],
        "networks": [],
    }


def _network(
    one: LoadedFile, candidates: Sequence[LoadedFile], folder: Path, splits: DataSplits, sim_images: int
) -> dict[str, Any]:
    """Copy a file, run it on test images, and return its entry for the card."""
    name = f"model-T{one.timesteps}.net"
    is_papers = checkpoint.load(one.source).architecture == paper_architecture(splits.name)
    return {
        **_file(one.path, folder, name),
        "timesteps": one.timesteps,
        "checkpoint": one.source.name,
        "balance": netx.read(one.path).provenance["balance"],
        "is_corrected": "calibration" in netx.read(one.path).provenance,
        "weight_bits": netx.read(one.path).provenance["quantize"]["weight_bits"],
        "validation_correct": one.correct,
        "validation_correct_of_all": {
            other.source.name: other.correct for other in candidates if other.timesteps == one.timesteps
        },
        **_tested(one.path, (one.timesteps,), splits, sim_images),
        **(papers_best(splits.name, one.timesteps) if is_papers else {}),
        "commands": _export_command(one, name),
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


def papers_cnn(data: str) -> dict[str, float]:
    """Return the accuracy of the paper's CNN, in %, as a field of a card."""
    found = paper.cnn_accuracy(data)
    return {} if found is None else {"paper_cnn_accuracy": found}


def _file(path: Path, folder: Path, name: str) -> dict[str, Any]:
    """Copy a file, unless it exists or is too large for the repository, and return its description."""
    size = path.stat().st_size
    if size <= LARGEST_FILE and path.resolve() != (folder / name).resolve():
        write_atomically(folder / name, path.read_bytes())
    return {"file": name, "bytes": size, "sha256": sha256(path), "in_repository": size <= LARGEST_FILE}


def _checkpoint(source: Source, originals: Sequence[Path], folder: Path) -> dict[str, Any]:
    original = checkpoint.load(source.original)
    return {
        **_described(checkpoint.load(source.path), _file(source.path, folder, source.path.name)),
        **({"copy_of": source.original.name} if source.path != source.original else {}),
        "command": train_command(original, source.original.name, originals),
    }


def _described(found: Checkpoint, file: dict[str, Any]) -> dict[str, Any]:
    """Return the card fields that every checkpoint has."""
    return {
        **file,
        "stored_as": found.stored_as,
        "qcfs_levels": found.qcfs_levels,
        "validation_accuracy": found.validation_accuracy,
        "test_accuracy": found.test_accuracy,
        "recipe": {key: value for key, value in found.recipe.items() if key != "validation_accuracy_per_epoch"},
    }


def train_command(trained: Checkpoint, name: str, others: Sequence[Path]) -> str:
    """Return the command that trains ``trained`` as the file ``name``, or a comment if there is none.

    ``others`` contain the checkpoint that it was fine-tuned from.
    """
    recovered = trained.recipe.get("recovered_from")
    if isinstance(recovered, dict):
        levels = "" if trained.qcfs_levels is None else f" --qcfs {trained.qcfs_levels}"
        file = recovered["file"]
        command = f"python tools/recover_checkpoint.py {file}{levels} -o {name}"
        return f"# {name}: {command}, from an earlier {file} that is not kept"
    recipe = recorded_recipe(trained.recipe)
    start = trained.recipe.get("start")
    words = []
    if isinstance(start, dict):
        origin = next((path for path in others if _digest(path) == start["sha256"]), None)
        if origin is None:
            return f"# {name}: fine-tuned from a CNN that is not here"
        words.append(f"--from {origin.name}")
        recipes = {"best": (fine_tuning_recipe(trained.data), trained.architecture)}
    else:
        words.append(f"--data {trained.data}")
        recipes = {"best": (default_recipe(trained.data), default_architecture(trained.data))}
        with contextlib.suppress(UsageError):
            recipes["paper"] = (paper_recipe(trained.data), paper_architecture(trained.data))
    for word, (named, architecture) in recipes.items():
        if replace(named, epochs=recipe.epochs, weight_bits=recipe.weight_bits) == recipe:
            options = {
                "architecture": trained.architecture if trained.architecture != architecture else None,
                "recipe": word if word != "best" else None,
                "epochs": recipe.epochs if recipe.epochs != named.epochs else None,
                "qcfs": trained.qcfs_levels,
                "weight-bits": recipe.weight_bits,
                "store": trained.stored_as if trained.stored_as != "float32" else None,
                "seed": trained.seed,
            }
            words += [f"--{option} {value}" for option, value in options.items() if value is not None]
            return f"loihi-convert train {' '.join(words)} -o {name}"
    return f"# {name}: trained from Python, with the recipe in card.json"


def _digest(path: Path) -> str:
    return checkpoint.digest("", checkpoint.load(path).state)


def _export_command(one: LoadedFile, name: str) -> list[str]:
    provenance = netx.read(one.path).provenance
    # A file that was already in the work folder may have been exported with another method.
    method = "" if provenance.get("choice") else f" --balance {provenance['balance']['method']}"
    method += " --bias-correction" if method and "calibration" in provenance else ""
    export = f"loihi-convert export {one.source.name} -T {one.timesteps}{method} -o {name}"
    return [export, f"loihi-convert run {name}"]


def _single(one: LoadedFile, timesteps: Sequence[int], splits: DataSplits) -> dict[str, Any]:
    """Return the card entry of the best single file."""
    return {
        "checkpoint": one.source.name,
        "timesteps": one.timesteps,
        "sha256": sha256(one.path),
        **_tested(one.path, timesteps, splits, 0),
        "file": f"model-T{one.timesteps}.net",
        "commands": [f"loihi-convert run model-T{one.timesteps}.net -T {max(timesteps)}"],
    }


def _tested(path: Path, timesteps: Sequence[int], splits: DataSplits, sim_images: int) -> dict[str, Any]:
    """Return the file's results on test images: all with `ref`, the first ones with Lava."""
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
        with open_backend("sim", BackendOptions(lava_layout="layers")) as lava:
            part = splits.test[:sim_images]
            # Raises an error if any potential differs.
            ran = pipeline.run(path, part, lava, pipeline.RunOptions((max(timesteps),)), bars=progress_bar)
            sim_right = int((ran.result.predictions[:, -1] == part.known_labels).sum())
            found["sim"] = {"images": len(part), "equal_to_ref": ran.equal_to_reference, "correct": sim_right}
    return found


if __name__ == "__main__":
    sys.exit(main())
