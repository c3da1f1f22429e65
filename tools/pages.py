"""Write the tables and pictures of README.md, docs/ and the model cards from stored results (cards and CSV files).

    python tools/pages.py            # writes them
    python tools/pages.py --check    # exit code 5 if a file differs from its source, or the conversion has changed

A table is between ``<!-- table NAME -->`` and ``<!-- end of table -->``. The accuracies come from
``netx_models/*/card.json`` and ``netx_models/*/paper/*.csv``, the paper's from ``loihi_convert/report/paper.csv``,
speeds and other networks from ``docs/results/*.csv`` (`stored_results`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import paper_tables
import stored_results
from drawings import draw_accuracy, draw_graded, draw_peers, picture
from netx_cards import (
    CONVERTED,
    KINDS,
    accuracies,
    by_lava_dl,
    card_page,
    card_table,
    index_page,
    mean_in_words,
    read_card,
    seeds_table,
)

from loihi_convert.__main__ import exit_code
from loihi_convert.errors import VerificationError
from loihi_convert.ground.files import write_atomically
from loihi_convert.report.table import markdown_table

ROOT: Final = Path(__file__).parents[1]
MODELS: Final = ROOT / "netx_models"
DATA: Final = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
FOLDERS: Final = {
    **DATA,
    "fashion-mnist-maxpool": "Fashion-MNIST, max pooling",
    "cifar10-resnet20": "CIFAR-10, ResNet-20",
    "cifar10-vgg16": "CIFAR-10, VGG-16",
}
"""The folders of netx_models/; those with the name of a data set hold the network that is compared with the paper."""

_BLOCK: Final = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
_README_FOLDERS: Final = ("mnist", "fashion-mnist", "cifar10")
_README_STEPS: Final = (1, 2, 4, 8, 64)


def cards() -> dict[str, dict[str, Any]]:
    """Return the card of each folder."""
    return {folder: read_card(MODELS / folder) for folder in FOLDERS if (MODELS / folder / "card.json").exists()}


def headline() -> str:
    """Return the README's table: a row for each data set and kind, with the paper's results after the converted."""
    rows = []
    for folder, card in cards().items():
        for kind in KINDS if folder in _README_FOLDERS else ():
            means = [mean_in_words(accuracies(card, kind, steps)) for steps in (None, *_README_STEPS)]
            rows.append([f"**{FOLDERS[folder]}**, {kind}", *means])
            papers = {
                network["timesteps"]: network["paper"]["accuracy"] for network in card["networks"] if "paper" in network
            }
            if papers and kind == CONVERTED:
                cells = (f"{papers[steps]:.2f}" if steps in papers else "" for steps in _README_STEPS)
                rows.append(["Ngu & Lee 2022, converted", f"{card['paper_cnn_accuracy']:.2f}", *cells])
    return markdown_table(("test accuracy, %", "CNN", *(f"T = {steps}" for steps in _README_STEPS)), rows)


def stock_lava_dl() -> str:
    """Return the accuracies of unmodified lava-dl, with those of `ref` on the same images, by network, kind and T."""
    rows = [
        {**row, "name": FOLDERS[folder] + ("" if kind == "model" else f", {kind}")}
        for folder, card in cards().items()
        for network in card["networks"]
        for row in by_lava_dl(network)
        if (kind := network["file"].partition("-T")[0])
    ]
    return stored_results.crossed(
        sorted(rows, key=lambda row: int(row["timesteps"])),
        lambda row: row["name"],
        lambda row: f"T = {row['timesteps']}",
        lambda row: f"{row['lava_dl_accuracy']} ({row['ref_accuracy']})",
    )


def paper_rows(file: str, rows: Sequence[tuple[str, str, str, str, str]]) -> Callable[[], str]:
    """Return a table of selected rows of a CSV file from `reproduce`; columns are T, cells are accuracies in %.

    Each row: its title, method (or "" for the best of our methods), reset, alpha, and variant (or ``paper``).
    """

    def table() -> str:
        stored = stored_results.read_rows(MODELS / file)
        steps = sorted({int(row["timesteps"]) for row in stored if row["timesteps"]})
        cells = []
        for title, method, reset, alpha, variant in rows:
            column = "paper_accuracy" if variant == "paper" else "accuracy"
            found = {
                int(row["timesteps"]): row[column]
                for row in stored
                if row["timesteps"]
                and (row["variant"] == variant or (variant == "paper" and row["variant"] == "literal"))
                and (not method or (row["method"], row["reset"], row["alpha"]) == (method, reset, alpha))
            }
            if any(found.values()):
                cells.append([title, *(found.get(count) or "" for count in steps)])
        return markdown_table(("%", *(f"T = {count}" for count in steps)), cells)

    return table


def _compared(methods: Sequence[tuple[str, str]], variants: Sequence[str]) -> list[tuple[str, str, str, str, str]]:
    """Return the paper's row of each method, followed by those of ``variants``."""
    return [
        (f"**{method}**, the paper" if variant == "paper" else f"{method}, {variant}", method, reset, "1.0", variant)
        for method, reset in methods
        for variant in ("paper", *variants)
    ]


_METHODS: Final = (("ngu-lee", "soft"), ("act-norm-channelwise", "hard"), ("spike-norm", "hard"), ("rmp", "soft"))
_BEST: Final = ("**best of this package**", "", "", "", "best")
_ALPHAS: Final = ("0.8", "0.6", "0.4", "0.2")


def _factors(variants: Sequence[str]) -> list[tuple[str, str, str, str, str]]:
    paper = [(f"**alpha {alpha}**, the paper", alpha, "paper") for alpha in _ALPHAS]
    ours = [(f"alpha {alpha}, {variant}", alpha, variant) for alpha in _ALPHAS for variant in variants]
    rows = sorted((*paper, *ours), key=lambda row: _ALPHAS.index(row[1]))
    return [(title, "ngu-lee", "soft", alpha, variant) for title, alpha, variant in rows]


TABLES: Final[dict[str, Callable[[], str]]] = {
    "headline": headline,
    "seeds": lambda: seeds_table(cards()["mnist"]),
    "stock-lava-dl": stock_lava_dl,
    **stored_results.TABLES,
    **{f"data-{folder}": partial(card_table, card) for folder, card in cards().items()},
    "paper-commands": paper_tables.commands,
    "paper-A4": paper_tables.orders,
    "paper-2": paper_rows("mnist/paper/table-2.csv", _compared(_METHODS, ("literal", "spikes", "compensated"))),
    "paper-2-recipe": paper_rows("mnist/paper/recipe/table-2.csv", _compared(_METHODS, ("published",))),
    "paper-2-few-steps": paper_rows(
        "mnist/paper/few-steps/table-2.csv", _compared(_METHODS[:2], ("literal", "compensated"))
    ),
    "paper-A2-recipe": paper_rows("mnist/paper/recipe/table-A2.csv", _factors(("literal", "alpha-afterwards"))),
    "paper-3": paper_rows(
        "fashion-mnist/paper/table-3.csv",
        [
            *_compared(_METHODS[:1], ("literal", "compensated")),
            *_compared(_METHODS[1:], ("literal", "published")),
        ],
    ),
    "paper-3-recipe": paper_rows("fashion-mnist/paper/recipe/table-3.csv", _compared(_METHODS[:2], ("published",))),
    "paper-A3": paper_rows("fashion-mnist/paper/table-A3.csv", _factors(("literal",))),
    "paper-11": paper_rows(
        "cifar10-vgg16/paper/figure-11.csv",
        [
            ("**ngu-lee**, the paper", "ngu-lee", "soft", "1.0", "paper"),
            *((f"ngu-lee, {way}", "ngu-lee", "soft", "1.0", way) for way in ("literal", "compensated")),
            _BEST,
        ],
    ),
}
"""Every table by its name."""


def pictures() -> dict[str, str]:
    """Return every picture, light and dark, by its file in docs/pictures/."""
    graded, peers = (stored_results.rows_of(name) for name in ("graded.csv", "peers.csv"))
    names = {row["network"]: FOLDERS[row["network"]] for row in graded}
    drawn: dict[str, str] = {}
    for dark, shade in ((False, "light"), (True, "dark")):
        drawn[f"accuracy-{shade}.svg"] = picture(dark, draw_accuracy, {data: cards()[data] for data in DATA}, DATA)
        drawn[f"graded-{shade}.svg"] = picture(dark, draw_graded, graded, names)
        drawn[f"peers-{shade}.svg"] = picture(dark, draw_peers, peers)
    return drawn


def contents() -> Iterator[tuple[Path, str]]:
    """Yield every file with results, and its required contents."""
    yield MODELS / "README.md", index_page(cards(), FOLDERS)
    for name, card in cards().items():
        yield MODELS / name / "README.md", card_page(card)
    for name, drawn in pictures().items():
        yield ROOT / "docs/pictures" / name, drawn
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = path.read_text()
        filled = _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]]()}{block[3]}", text)
        if "<!-- table " in text:
            yield path, filled


def outdated() -> list[Path]:
    """Return the files that differ from their sources."""
    return [path for path, text in contents() if not path.exists() or path.read_text() != text]


def main() -> int:
    """Write the files, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 5 if a file differs")
    return exit_code(check if parser.parse_args().check else write)


def check() -> int:
    """Name the files that differ from their sources, and those of another conversion; return the exit code."""
    wrong = [f"{path.relative_to(ROOT)}: differs from its source; run: python tools/pages.py" for path in outdated()]
    for sentence, is_wrong in paper_tables.stale():
        if is_wrong:
            wrong.append(sentence)
        else:
            print(f"warning: {sentence}")
    print("".join(f"{sentence}\n" for sentence in wrong), end="", file=sys.stderr)
    return VerificationError.exit_code if wrong else 0


def write() -> None:
    """Write every file with results."""
    for path, text in contents():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text.encode())


if __name__ == "__main__":
    sys.exit(main())
