"""Write docs/results/graded.csv: python tools/graded_results.py mnist=runs/mnist-graded cifar10=runs/cifar10-graded ...

Each argument names a folder of netx_models/ and a run folder of its CNN as graded spikes (`loihi-convert run`). The
accuracies of binary spikes are those of the folder's model card, on all test images.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
OUTPUT: Final = ROOT / "docs" / "results" / "graded.csv"
TIMESTEPS: Final = (1, 4, 8, 64)


def row(name: str, folder: Path) -> dict[str, object]:
    """Return the figures of one network."""
    (found,) = json.loads((folder / "result.json").read_text()).values()
    card = json.loads((ROOT / "netx_models" / name / "card.json").read_text())
    (point,) = found["points"]
    return {
        "network": name,
        "images": found["image_count"],
        "CNN %": percent(found["cnn_accuracy"]),
        "graded, one step %": percent(point["accuracy"]),
        **{f"spikes, T = {steps} %": accuracy(card, steps) for steps in TIMESTEPS},
        "messages": round(point["spikes_per_image"]),
        "SynOps, M": f"{point['synaptic_operations'] / 1e6:.1f}",
        "steps to the output": found["depth"],
    }


def accuracy(card: dict[str, Any], timesteps: int) -> str:
    """Return the test accuracy of the card's file for T, in percent; empty without one."""
    known = [one["test"] for one in card["networks"] if one["timesteps"] == timesteps]
    points = [point["accuracy"] for point in (known[0] if known else []) if point["timesteps"] == timesteps]
    return percent(points[0]) if points else ""


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.2f}"


def main() -> None:
    """Write the file."""
    rows = [row(name, Path(folder)) for name, _, folder in (words.partition("=") for words in sys.argv[1:])]
    with OUTPUT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
