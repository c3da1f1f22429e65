"""Measure the cost of `ref` on several networks, and write docs/results/cost.csv.

    python tools/peers/cost_table.py                        # all networks
    python tools/peers/cost_table.py --networks VGG-16      # continue: measure some networks; keep the other rows

Each network is one run of `benchmark.py cost`; the file has its medians. `tools/pages.py` makes the tables of
docs/results/benchmarks.md from it, unless their rows were measured with different threads, machines or commits. Rows
without a date were measured before November 29, 2026: after 16 images of warm-up instead of all images.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmark import read_options
from benchmark_tables import CONDITIONS, conditions, read_rows, three_digits

from loihi_convert.__main__ import exit_code
from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.files import write_atomically
from loihi_convert.runs.columns import as_csv

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "docs/results/cost.csv"

CURVES: Final = ("timesteps", "images", "widths", "depths", "threads")
NETWORKS: Final[Mapping[str, str]] = {
    "MNIST CNN": "--network mnist-cnn --repeats 3 --sweep-timesteps 1,8,64,512 --sweep-images 100,1000,10000 "
    "--sweep-widths 16,32,64 --sweep-depths 1,2,4,8 --sweep-threads 1,2",
    "ResNet-20": "netx_models/cifar10-resnet20/model-T4.net -T 4 --repeats 3 --images 1000 --sweep-threads 1,2",
    "VGG-16": "--network vgg16 -T 4 --repeats 3 --images 500 --sweep-threads 1,2",
    "ResNet-18, 224 x 224": "--arch torchvision.models:resnet18 --data noise -T 4 --repeats 3 --images 32 "
    "--sweep-threads 1,2",
}
"""Arguments of `benchmark.py cost` for each network; curves that are not named are left out."""

FIELDS: Final = (
    *("network", "curve", "value", "images", "timesteps", *CONDITIONS),
    *("seconds", "images_per_second", "peak_mib"),
)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", metavar="NAME", nargs="+", default=tuple(NETWORKS), help="default: all")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="default: docs/results/cost.csv")
    options = parser.parse_args()
    return exit_code(lambda: measure(options.networks, options.output))


def measure(names: Sequence[str], output: Path) -> None:
    """Measure the networks ``names`` and write them to ``output``, each as soon as it is done."""
    for name in names:
        if name not in NETWORKS:
            raise UsageError(f"found {name!r}", where="--networks", expected=one_of(NETWORKS))
        words = [str(ROOT / word) if word.startswith("netx_models/") else word for word in shlex.split(NETWORKS[name])]
        unnamed = [word for curve in CURVES if f"--sweep-{curve}" not in words for word in (f"--sweep-{curve}", "")]
        with tempfile.TemporaryDirectory() as folder:
            options = read_options(["cost", *words, *unnamed, "--output", folder])
            options.measure(options)
            measured = list(medians(name, read_rows(Path(folder, "cost.csv"))))
        stored = read_rows(output)
        known = {each: [row for row in stored if row["network"] == each] for each in NETWORKS} | {name: measured}
        write_atomically(output, as_csv(row for rows in known.values() for row in rows))


def medians(network: str, rows: Sequence[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """Yield one row for each point of a curve, from ``rows``, one for each repeat."""
    for curve, value in dict.fromkeys((row["curve"], row["value"]) for row in rows):
        repeats = [row for row in rows if (row["curve"], row["value"]) == (curve, value)]
        seconds = statistics.median(float(row["seconds"]) for row in repeats)
        peak = statistics.median(float(row["peak_mib"]) for row in repeats)
        images, timesteps, threads = (repeats[0][name] for name in ("images", "T", "threads"))
        numbers = [three_digits(number).replace(",", "") for number in (seconds, int(images) / seconds, peak)]
        key = (network, curve, value, images, timesteps)
        yield dict(zip(FIELDS, (*key, *conditions(int(threads)).values(), *numbers), strict=True))


if __name__ == "__main__":
    sys.exit(main())
