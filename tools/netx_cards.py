"""Cards of the folders of netx_models/, as pages: ``card.json`` made into ``README.md``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from loihi_convert.cnn.recipe import Recipe
from loihi_convert.errors import InputError
from loihi_convert.report.formats import markdown_table


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card in ``folder``.

    Raises
    ------
    InputError
        If there is none, or none that can be read.
    """
    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"no readable card.json ({reason})", where=folder, hint="Make the folder with the verb build first."
        ) from error
    return card


def card_page(card: dict[str, Any]) -> str:
    """Return the README of a folder, made of its card alone; what an older card does not know is left out."""
    cnn, count = 100 * card["cnn_test_accuracy"], card["test_images"]
    paper = f" (the paper's: {card['paper_cnn_accuracy']:.2f} %)" if "paper_cnn_accuracy" in card else ""
    single = card.get("best_single_file")
    best = (
        "No file here fits for all T." if single is None else f"`{single['file']}` is the best single file for all T."
    )
    lines = [
        f"# {card['data']}: {card['architecture']}, seed {card['seed']}",
        "",
        f"{card['layers']} (`12c5`: convolution of 12 channels, 5 x 5; `2ap`: 2 x 2 average pooling; `10o`: outputs).",
        "",
        f"CNN before fine-tuning: {cnn:.2f} % of {count:,} test images{paper}. One file for each T, integer weights "
        f"and thresholds, chosen on {card['validation_images']:,} validation images. Accuracy is that of the integers "
        f"(`ref`) on all {count:,} test images, with its 95 % interval; every output potential of Lava's simulator "
        f"(`sim`) on the first of them is `ref`'s. {best}",
        "",
        _table(_network_rows(card)),
        "",
        *(_PAPER if any("paper" in network for network in card["networks"]) else ()),
        "## Training",
        "",
        _table([_training_row(item) for item in card["checkpoints"]]),
        "",
        *_further(card),
        "## Make it again",
        "",
        "```",
        *(item["command"] for item in card["checkpoints"]),
        *_copy_commands(card),
        *(
            command
            for network in (*card["networks"], *([] if single is None else [single]))
            for command in network["commands"]
        ),
        "```",
        "",
        "Training gives the same weights on the same processor, number of threads and torch only, and another version "
        "of this package may export another file. `run` gives the accuracies above from the files here to the digit. "
        "All that was tried is in `card.json`.",
        "",
        "## SHA-256",
        "",
        "For `sha256sum --check --ignore-missing`:",
        "",
        "```",
        *(
            f"{item['sha256']}  {item['file']}"
            for item in (*card["checkpoints"], *card["networks"], *card.get("further_checkpoints", ()))
        ),
        "```",
    ]
    return "\n".join(lines) + "\n"


_PAPER = (
    "The paper's accuracy is the best of its method at that T, over its factors alpha on the thresholds (Ngu & Lee "
    "2022, tables 2, 3, A2, A3).",
    "",
)


def _network_rows(card: dict[str, Any]) -> list[dict[str, str]]:
    cnn, single = 100 * card["cnn_test_accuracy"], card.get("best_single_file")
    of_single = {} if single is None else {point["timesteps"]: 100 * point["accuracy"] for point in single["test"]}
    rows = []
    for network in card["networks"]:
        (test,) = network["test"]
        accuracy, (low, high) = 100 * test["accuracy"], (100 * bound for bound in test["interval"])
        sim, paper = network.get("sim"), network.get("paper")
        rows.append(
            {
                "T": str(network["timesteps"]),
                "accuracy, %": f"{accuracy:.2f} ({low:.2f}..{high:.2f})",
                "to the CNN": f"{accuracy - cnn:+.2f}",
                "paper, %": f"{paper['accuracy']:.2f} (alpha {paper['alpha']:g})" if paper else "",
                **({} if single is None else {f"`{single['file']}`, %": f"{of_single[network['timesteps']]:.2f}"}),
                "thresholds": _method(network["balance"]) + (", corrected" if network["is_corrected"] else ""),
                "weight bits": str(network["weight_bits"]),
                "from": network["checkpoint"],
                "file": _size(network),
                "Lava, %": f"{100 * sim['correct'] / sim['images']:.2f} of {sim['images']:,}" if sim else "",
            }
        )
    return rows


def _training_row(item: dict[str, Any]) -> dict[str, str]:
    return {
        "checkpoint": item["file"],
        "recipe": recipe_in_words(item["recipe"], item["qcfs_levels"]),
        "time": _time(item["recipe"]) if "seconds" in item["recipe"] else "",
        "validation, %": f"{100 * item['validation_accuracy']:.2f}",
        "test, %": f"{100 * item['test_accuracy']:.2f}",
        "file": f"{_size(item)}, {item['stored_as']}" if "stored_as" in item else _size(item),
    }


def _further(card: dict[str, Any]) -> list[str]:
    """Checkpoints to go on with, if there are any."""
    further = card.get("further_checkpoints", ())
    if not further:
        return []
    recovered = (
        " What was recovered is the CNN of a file of this folder as it was then, its weights rounded to 8 bits "
        "(`tools/recover_checkpoint.py`)."
    )
    return [
        "## To go on with",
        "",
        "No file above was made from these."
        + (recovered if any("recovered_from" in item["recipe"] for item in further) else ""),
        "",
        _table([_training_row(item) for item in further]),
        "",
    ]


def _table(rows: Sequence[dict[str, str]]) -> str:
    """Return a Markdown table of the columns that are not empty."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    return markdown_table(columns, [[row[name] for name in columns] for row in rows]).rstrip("\n")


def _size(item: dict[str, Any]) -> str:
    return f"{item['bytes'] / 1e6:.2f} MB" + ("" if item["in_repository"] else ", not here")


def _method(balance: dict[str, Any]) -> str:
    percentile = f" {balance['percentile']:g}" if "percentile" in balance else ""
    return f"{balance['method']}{percentile}"


def recorded_recipe(record: dict[str, Any]) -> Recipe:
    """Return the recipe in what a checkpoint records; fields that are younger than it have their defaults."""
    return Recipe(**{field.name: record[field.name] for field in fields(Recipe) if field.name in record})


def recipe_in_words(record: dict[str, Any], qcfs_levels: int | None) -> str:
    """Return how a checkpoint was trained, in a line."""
    if "recovered_from" in record:
        levels = f", L = {qcfs_levels}" if qcfs_levels is not None else ""
        return f"recovered from {record['recovered_from']['file']}{levels}"
    recipe = recorded_recipe(record)
    rate = f"learning rate {recipe.learning_rate:g}"
    if recipe.schedule == "one-cycle":
        rate = f"one cycle up to {rate}"
    elif recipe.step_at < 1:
        rate += f", a tenth after {100 * recipe.step_at:g} % of the epochs"
    augmentation = {
        "rotation": recipe.rotation,
        "scaling": recipe.scaling,
        "shear": recipe.shear,
        "translation": recipe.translation,
        "cut-out": recipe.cutout,
    }
    parts = (
        "fine-tuned" if "start" in record else "",
        f"L = {qcfs_levels}" if qcfs_levels is not None else "",
        f"weights of {recipe.weight_bits} bits" if recipe.weight_bits is not None else "",
        f"{recipe.epochs} epochs, batches of {recipe.batch_size}",
        f"AdamW (weight decay {recipe.weight_decay:g})" if recipe.weight_decay else "Adam",
        rate,
        f"label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else "",
        f"weights averaged by {recipe.averaging:g}" if recipe.averaging else "",
        f"spatial dropout {recipe.dropout:g}" if recipe.dropout else "",
        *(f"{name} {value:g}" for name, value in augmentation.items() if value),
        "flip" if recipe.flip else "",
    )
    return ", ".join(part for part in parts if part)


def _time(recipe: dict[str, Any]) -> str:
    """Return the time of all epochs, validation included, and what it was trained on."""
    seconds = recipe["seconds"]
    time = f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
    return f"{time}, threads: {recipe['threads']}, {recipe['arithmetic']}"


def _copy_commands(card: dict[str, Any]) -> list[str]:
    originals = [item["copy_of"] for item in card["checkpoints"] if "copy_of" in item]
    return [f"python tools/netx_models.py float16 {' '.join(originals)}"] if originals else []


def _measured(card: dict[str, Any]) -> str:
    return f"{card['data']} for T = {', '.join(str(network['timesteps']) for network in card['networks'])}"


def mean_table(cards: Sequence[dict[str, Any]]) -> str:
    """Return accuracy, and its difference to the CNN's, of several seeds and their mean.

    Raises
    ------
    InputError
        If they are not of one data set and the same T.
    """
    steps = [network["timesteps"] for network in cards[0]["networks"]]
    for number, card in enumerate(cards, start=1):
        if _measured(card) != _measured(cards[0]):
            raise InputError(
                f"folder {number} holds networks of {_measured(card)}, the first one of {_measured(cards[0])}",
                where="table",
                expected="all folders must have the same data set and the same T",
            )
    rows = []
    differences = []
    for card in cards:
        cnn = 100 * card["cnn_test_accuracy"]
        accuracies = [100 * network["test"][0]["accuracy"] for network in card["networks"]]
        differences.append([accuracy - cnn for accuracy in accuracies])
        rows.append((f"seed {card['seed']}", f"{cnn:.2f}", *(f"{accuracy:.2f}" for accuracy in accuracies)))
    columns = list(zip(*differences, strict=True))
    rows.append(("mean difference", "", *(f"{statistics.mean(column):+.2f}" for column in columns)))
    return markdown_table((cards[0]["data"], "CNN", *(f"T = {step}" for step in steps)), rows)
