"""Model cards of the folders in netx_models/: converts ``card.json`` to ``README.md``."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import jinja2
from stored_results import Row, rows_of

from loihi_convert.cnn.recipe import Recipe
from loihi_convert.report.table import markdown_table

CONVERTED: Final = "converted"
"""Kind of a file that was exported from the CNN as it is."""

FINE_TUNED: Final = "fine-tuned"
"""Kind of a file that was exported from a checkpoint trained further for few steps."""

KINDS: Final = (CONVERTED, FINE_TUNED)

_KINDS_IN_WORDS: Final = (
    "*Converted* files are exported from the CNN as it is, *fine-tuned* ones from a checkpoint trained further for few "
    "steps; validation images chose the better kind, `model-T*.net`."
)


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card in ``folder``."""
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    return card


def is_best(network: dict[str, Any]) -> bool:
    """Whether a file is the better of both kinds, or the only one, for its T."""
    return str(network["file"]).startswith("model-")


_SYMBOLS: Final = {
    r"\d+c\d": "`12c5`: convolution, 12 channels, 5 x 5",
    r"\[": "`[16c3-16c3]`: residual block",
    r"\d+ap": "`2ap`: 2 x 2 average pooling",
    r"\d+mp": "`2mp`: 2 x 2 max pooling",
    "gap": "`gap`: mean of each map",
    r"\d+fc": "`512fc`: dense layer",
    r"\d+o": "`10o`: outputs",
}
"""Meanings of the symbols of `netx_models.notation`, by pattern."""


_HUB_DATASETS: Final = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
}
"""Names of the data sets on the Hugging Face hub."""


def card_page(card: dict[str, Any]) -> str:
    """Return the README of a folder, a model card made only from ``card``; fields that an older card lacks are omitted.

    Front matter and sections of ``card.md.jinja`` follow the model-card template of the Hugging Face hub.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=loader, trim_blocks=True, keep_trailing_newline=True)
    pages.filters |= {"percent": lambda share: f"{100 * share:.2f}", "thousands": "{:,}".format, "training": _training}
    further = card.get("further_checkpoints", [])
    runs = [*card["networks"], *([card["best_single_file"]] if "best_single_file" in card else [])]
    return pages.get_template("card.md.jinja").render(
        card=card,
        hub=_HUB_DATASETS.get(card["data"]),
        symbols="; ".join(meaning for pattern, meaning in _SYMBOLS.items() if re.search(pattern, card["layers"])),
        first=min(filter(is_best, card["networks"]), key=lambda network: abs(network["timesteps"] - 4))["file"],
        kinds=_KINDS_IN_WORDS,
        table=card_table(card).rstrip("\n"),
        further=further,
        commands=[
            *(item["command"] for item in (*card["checkpoints"], *further) if "command" in item),
            *(command for run in runs for command in run["commands"]),
        ],
    )


def card_table(card: dict[str, Any]) -> str:
    """Return the accuracies of a folder as Markdown, one row per file."""
    return _table(_network_rows(card)) + "\n"


def index_page(cards: Mapping[str, dict[str, Any]], names: Mapping[str, str]) -> str:
    """Return the README of netx_models/, which lists every file."""
    rows = [
        {
            "file": f"[{network['file']}]({folder}/{network['file']})",
            "card": f"[{names[folder]}]({folder}/README.md)",
            "network": card["architecture"],
            "kind": network["kind"],
            "T": str(network["timesteps"]),
            "accuracy, %": f"{100 * network['test'][0]['accuracy']:.2f}",
            "CNN, %": f"{100 * card['cnn_test_accuracy']:.2f}",
            "MB": f"{network['bytes'] / 1e6:.2f}",
        }
        for folder, card in cards.items()
        for network in card["networks"]
        if network["in_repository"]
    ]
    return (
        "# Converted networks\n\nNetworks in lava-dl's netx format, ready to run by path (`loihi-convert run FILE`) or "
        "by name (`loihi-convert run mnist-T4`); `loihi-convert models` lists the names. "
        f"{_KINDS_IN_WORDS} Accuracies are those of the integer networks on all 10,000 test images. **None of these "
        "files has run on a chip.** Each folder has a model card with intervals, training, commands and digests. "
        f"`python tools/pages.py` writes this page.\n\n{_table(rows)}\n\n"
        "The folders `paper/` hold tables and figures of Ngu & Lee 2022, see [the paper's "
        "tables](../docs/results/paper.md).\n"
    )


def _network_rows(card: dict[str, Any]) -> list[dict[str, str]]:
    cnn, single = 100 * card["cnn_test_accuracy"], card.get("best_single_file", {"file": "", "test": ()})
    of_single = {point["timesteps"]: f"{100 * point['accuracy']:.2f}" for point in single["test"]}
    rows = []
    for network in card["networks"]:
        (test,) = network["test"]
        accuracy, (low, high) = 100 * test["accuracy"], (100 * bound for bound in test["interval"])
        sim, paper = network.get("sim"), network.get("paper")
        rows.append(
            {
                "T": str(network["timesteps"]),
                "kind": network["kind"],
                "accuracy, %": f"{accuracy:.2f} ({low:.2f}..{high:.2f})",
                "to the CNN": f"{accuracy - cnn:+.2f}",
                "paper, %": f"{paper['accuracy']:.2f} (alpha {paper['alpha']:g})" if paper else "",
                f"`{single['file']}`, %": of_single.get(network["timesteps"], "") if is_best(network) else "",
                "thresholds": _method(network["balance"]) + (", corrected" if network["is_corrected"] else ""),
                "weight bits": str(network["weight_bits"]),
                "from": network["checkpoint"],
                "file": f"{network['file']}, {_size(network)}",
                "Lava, %": f"{100 * sim['correct'] / sim['images']:.2f} of {sim['images']:,}" if sim else "",
                "unmodified lava-dl, %": ", ".join(
                    f"{row['lava_dl_accuracy']} of {int(row['images']):,} (`ref`: {row['ref_accuracy']})"
                    for row in by_lava_dl(network)
                ),
            }
        )
    return rows


def by_lava_dl(network: Mapping[str, Any]) -> list[Row]:
    """Return what `stock_results` measured of a card's file, if it did: one row, or none."""
    return rows_of("stock-lava-dl.csv", sha256=network["sha256"])


def _training(item: dict[str, Any]) -> str:
    """Return a line on one checkpoint: file, accuracies, training."""
    size = f"{_size(item)}, {item['stored_as']}" if "stored_as" in item else _size(item)
    recipe = recipe_in_words(item["recipe"], item["qcfs_levels"])
    return (
        f"- `{item['file']}` ({size}): {100 * item['validation_accuracy']:.2f} % of the validation images, "
        f"{100 * item['test_accuracy']:.2f} % of the test images{_as_spiking(item['recipe'])}. "
        f"{recipe[:1].upper()}{recipe[1:]}. {_conditions(item)}."
    )


def _as_spiking(recipe: dict[str, Any]) -> str:
    """Return the accuracy as a spiking network, if that was trained."""
    found = recipe.get("spiking_accuracy")
    if not found:
        return ""
    figures = ", ".join(f"{100 * found[name]:.2f} % of the {name} images" for name in ("validation", "test"))
    steps = recipe["timesteps"]
    return f" with QCFS; as a spiking network after {steps} step{'s' * (steps > 1)}: {figures}"


def _table(rows: Sequence[dict[str, str]]) -> str:
    """Return a Markdown table of the columns that are not empty."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    return markdown_table(columns, [[row[name] for name in columns] for row in rows]).rstrip("\n")


def _size(item: dict[str, Any]) -> str:
    return f"{item['bytes'] / 1e6:.2f} MB" + ("" if item["in_repository"] else ", not in the repository")


def _method(balance: dict[str, Any]) -> str:
    percentile = f" {balance['percentile']:g}" if "percentile" in balance else ""
    return f"{balance['method']}{percentile}"


def recorded_recipe(record: dict[str, Any]) -> Recipe:
    """Return the recorded training recipe of a checkpoint; fields added later have their defaults."""
    return Recipe(**{field.name: record[field.name] for field in fields(Recipe) if field.name in record})


def recipe_in_words(record: dict[str, Any], qcfs_levels: int | None) -> str:
    """Return a line on how a checkpoint was trained."""
    teacher = record.get("teacher")
    parts = (
        "fine-tuned" if "start" in record else "",
        ""
        if teacher is None
        else f"taught by a {teacher['architecture']} (share {teacher['share']:g}, temperature "
        f"{teacher['temperature']:g})",
        f"L = {qcfs_levels}" if qcfs_levels is not None else "",
        recorded_recipe(record).words,
    )
    return ", ".join(part for part in parts if part)


def _conditions(item: dict[str, Any]) -> str:
    """Return what the weights depend on besides the recipe; of an older checkpoint, first the minutes of all epochs."""
    recipe = item["recipe"]
    parts = (
        f"{recipe['seconds'] / 60:.0f} min" if "seconds" in recipe else "",
        f"{recipe['threads']} thread{'s' * (recipe['threads'] > 1)}",
        recipe.get("arithmetic", ""),
        item.get("processor", ""),
    )
    return ", ".join(part for part in parts if part)


def accuracies(card: dict[str, Any], kind: str, timesteps: int | None) -> list[float]:
    """Return the accuracies in % at T, by training seed, or of the CNN (None); empty unless every seed has one."""
    seeds = [card, *card.get("further_seeds", ())]
    if timesteps is None:
        return [100 * seed["cnn_test_accuracy"] for seed in seeds]
    found = [
        100 * network["test"][0]["accuracy"]
        for seed in seeds
        for network in seed["networks"]
        if (network["kind"], network["timesteps"]) == (kind, timesteps)
    ]
    return found if len(found) == len(seeds) else []


def mean_in_words(values: Sequence[float]) -> str:
    """Return the mean, with the standard deviation if there are several; empty if there are none."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}" if values else ""


def seeds_table(card: dict[str, Any]) -> str:
    """Return the accuracies of each training seed as Markdown."""
    steps = sorted({network["timesteps"] for network in card["networks"]})
    rows = []
    for kind in KINDS:
        columns = [accuracies(card, kind, count) for count in (None, *steps)]
        for index, seed in enumerate((card, *card["further_seeds"])):
            cells = (f"{column[index]:.2f}" if column else "" for column in columns)
            rows.append((kind, str(seed["seed"]), *cells))
        rows.append((f"**{kind}**", "mean", *map(mean_in_words, columns)))
    return markdown_table(("%", "seed", "CNN", *(f"T = {count}" for count in steps)), rows)
