"""Write docs/results/graded.csv: python tools/graded_results.py mnist=runs/mnist-graded,runs/mnist-spikes ...

Each argument names a folder of netx_models/ and two run folders (`loihi-convert run`): one of its CNN as graded spikes,
with ``--model``, and one of its files of binary spikes, at the T of `TIMESTEPS`. Rows of other networks stay. They
do not depend on the machine, but after a change of `export` measure all networks again. The accuracies of binary spikes
are those of the folder's model card, on all test images; their spikes and synaptic operations are means over the images
of the run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from netx_cards import is_best, read_card
from stored_results import read_rows

from loihi_convert.ground.files import write_atomically
from loihi_convert.runs.columns import as_csv

ROOT: Final = Path(__file__).parents[1]
OUTPUT: Final = ROOT / "docs" / "results" / "graded.csv"
TIMESTEPS: Final = (1, 4, 8, 64)
COLUMNS: Final = (
    *("network", "neurons", "timesteps", "accuracy", "cnn_accuracy"),
    *("events", "synaptic_operations", "images", "steps_to_output"),
)
"""``events`` are messages or spikes of an image; ``images`` those over which they are counted."""


def graded_row(name: str, folder: Path) -> dict[str, object]:
    """Return the figures of graded spikes."""
    (found,) = json.loads((folder / "result.json").read_text()).values()
    (point,) = found["points"]
    return _row(name, "graded", found, point, point["accuracy"], found["cnn_accuracy"])


def spikes_rows(name: str, folder: Path) -> Iterator[dict[str, object]]:
    """Yield the figures of the better file of binary spikes that the card has at each T of `TIMESTEPS`."""
    card = read_card(ROOT / "netx_models" / name)
    runs = {found["timesteps"]: found for found in json.loads((folder / "result.json").read_text()).values()}
    for network in filter(is_best, card["networks"]):
        timesteps = network["timesteps"]
        if timesteps in TIMESTEPS:
            found = runs[timesteps]
            (point,) = (point for point in found["points"] if point["timesteps"] == timesteps)
            (test,) = (point for point in network["test"] if point["timesteps"] == timesteps)
            yield _row(name, "spikes", found, point, test["accuracy"], card["cnn_test_accuracy"])


def _row(
    name: str, neurons: str, found: dict[str, Any], point: dict[str, Any], accuracy: float, cnn_accuracy: float
) -> dict[str, object]:
    values = (
        *(name, neurons, point["timesteps"], f"{100 * accuracy:.2f}", f"{100 * cnn_accuracy:.2f}"),
        *(round(point["spikes_per_image"]), f"{point['synaptic_operations']:.3g}", found["image_count"]),
        point["global_steps"],
    )
    return dict(zip(COLUMNS, values, strict=True))


def _runs(text: str) -> tuple[str, tuple[Path, Path]]:
    name, _, folders = text.partition("=")
    graded, spikes = map(Path, folders.split(","))
    return name, (graded, spikes)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=_runs, metavar="NETWORK=GRADED_RUN,SPIKES_RUN")
    chosen = dict(parser.parse_args().runs)
    rows: list[dict[str, Any]] = read_rows(OUTPUT)
    order = [*dict.fromkeys(row["network"] for row in rows), *chosen]
    rows = [row for row in rows if row["network"] not in chosen]
    for name, (graded, spikes) in chosen.items():
        rows += [graded_row(name, graded), *spikes_rows(name, spikes)]
    rows.sort(key=lambda row: order.index(row["network"]))
    write_atomically(OUTPUT, as_csv(rows))


if __name__ == "__main__":
    main()
