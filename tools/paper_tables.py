"""Each stored table of the paper: its command, and whether the conversion has changed since; orders of rows.

The column ``conversion`` of a table is today's fingerprint (`loihi_convert.paper.fingerprints`), another one if
the conversion has changed, or where a table without one comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stored_results import read_rows

from loihi_convert.paper.fingerprints import row_fingerprint
from loihi_convert.report.table import markdown_table

MODELS: Final = Path(__file__).parents[1] / "netx_models"
UNKNOWN: Final = "unknown"
"""How the column begins in a table from before the column."""

_RECIPE: Final = "--model netx_models/mnist/cnn-paper-recipe.safetensors --no-best --calibration 10000"
_MNIST: Final = "--model mnist --no-best --calibration 10000"
_FASHION: Final = "-T 4,8,16,32,64 --calibration 10000"
COMMANDS: Final = {
    "mnist/paper/table-2.csv": f"table 2 {_MNIST} --images 2000",
    "mnist/paper/few-steps/table-2.csv": f"table 2 {_MNIST} -T 4,8,16 --methods ngu-lee,act-norm-channelwise "
    "--variants literal,compensated",
    "mnist/paper/table-A2.csv": f"table A2 {_MNIST} --images 2000 --variants literal,alpha-afterwards",
    "mnist/paper/table-A4.csv": f"table A4 {_MNIST} --images 2000",
    "mnist/paper/recipe/table-2.csv": f"table 2 {_RECIPE} --variants literal,spikes,published,compensated",
    "mnist/paper/recipe/table-A2.csv": f"table A2 {_RECIPE} --variants literal,alpha-afterwards",
    "fashion-mnist/paper/table-3.csv": f"table 3 --model fashion-mnist {_FASHION} "
    "--variants literal,published,compensated",
    "fashion-mnist/paper/table-A3.csv": f"table A3 --model fashion-mnist {_FASHION} --variants literal",
    "fashion-mnist/paper/recipe/table-3.csv": "table 3 --model netx_models/fashion-mnist/paper-20-epochs.safetensors "
    f"{_FASHION} --methods ngu-lee,act-norm-channelwise --variants literal,published --no-best",
    "cifar10-vgg16/paper/figure-11.csv": "figure 11 --model netx_models/cifar10-vgg16/cnn.safetensors "
    "--methods ngu-lee --variants literal,compensated --images 1000 --calibration 500 --long-images 500 "
    "--long-calibration 100 --tuned netx_models/cifar10-vgg16/cnn-spiking-T4.safetensors",
}
"""By file in netx_models/."""


def commands() -> str:
    """Return every stored table with its command and conversion."""
    return markdown_table(
        ("in `netx_models/`", "`loihi-convert reproduce ...`", "conversion"),
        [(f"`{file}`", f"`{command}`", _conversion(file)) for file, command in COMMANDS.items()],
    )


def orders() -> str:
    """Return how many pairs of rows of table A4 rank as in the paper, in each variant."""
    counts = r"- \*\*(\w+)\*\*: \d+ pairs of rows: (\d+) same order, (\d+) within chance, (\d+) opposite"
    found = re.findall(counts, (MODELS / "mnist/paper/table-A4.md").read_text())
    return markdown_table(("variant", "same order", "within chance", "opposite"), found)


def stale() -> Iterator[tuple[str, bool]]:
    """Yield a sentence for each table that is not of today's conversion, and whether it is known to be of another."""
    for file, command in COMMANDS.items():
        rows = read_rows(MODELS / file)
        if _conversion(file) != "today's":
            yield f"netx_models/{file}: measured with an {_conversion(file)} conversion", False
        elif any(row["conversion"] != row_fingerprint(row) for row in rows):
            folder = Path("netx_models", file).parent
            yield (
                f"netx_models/{file}: the conversion has changed since; run: loihi-convert reproduce {command} "
                f"-o {folder}",
                True,
            )


def _conversion(file: str) -> str:
    """Today's, which `stale` checks, or where it comes from."""
    stored = {row["conversion"] for row in read_rows(MODELS / file)}
    return next((one for one in stored if one.startswith(UNKNOWN)), "today's")
