"""Write docs/results/pilotnet.csv, PilotNet's cost on Loihi 2 as Intel measured it and as `chip.energy` estimates it.

Measured: lava-dl d825ac5, tutorials/lava/lib/dl/netx/pilotnet_snn/benchmark.ipynb: 16 steps an image, 408.91 images/s,
0.447 W of dynamic power. Estimated: spikes and synaptic operations of the same network, `gts/pilotnet_lif/network.net`
of lava-dl's wheel, in 16 steps of the one image that lies beside it.

    python tools/pilotnet_cost.py
"""

from __future__ import annotations

import argparse
import csv
import math
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.chip.energy import Estimate, NetworkSize, estimate
from loihi_convert.external import read_external
from loihi_convert.external.readers import CubaNetwork
from loihi_convert.external.simulation import simulate
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.files import write_atomically
from loihi_convert.runs.columns import as_csv

ROOT: Final = Path(__file__).parents[1]
OUTPUT: Final = ROOT / "docs" / "results" / "pilotnet.csv"
COMPILER_CORES: Final = ROOT / "tests" / "golden" / "loihi2_compiler_cores.csv"

TIMESTEPS: Final = 16
IMAGES_PER_SECOND: Final = 408.91
DYNAMIC_WATTS: Final = 0.447


class Counts(NamedTuple):
    """What PilotNet does in `TIMESTEPS` steps: spikes of each layer and the synapses that they reach, and its neurons.

    A layer's spikes reach the next one; the first layer is the input.
    """

    spikes: list[int]
    synaptic_operations: list[int]
    neurons: list[int]


def lava_dl_file(name: str) -> Path:
    """Return a file of lava-dl's tests, which its wheel installs."""
    (path,) = (file for file in metadata.files("lava-dl") or () if str(file) == f"tests/lava/lib/dl/netx/{name}")
    return Path(path.locate())


def counted() -> Counts:
    """Simulate lava-dl's image, a golden input of its tests."""
    network = read_external(lava_dl_file("gts/pilotnet_lif/network.net"))
    if not isinstance(network, CubaNetwork):
        raise TypeError(network)
    # Lava's axes are W, H, C.
    image: Array = np.load(lava_dl_file("gts/pilotnet_lif/image.npy")).T
    spikes = [0] * len(network.fan_outs)
    operations = [0] * len(network.fan_outs)
    for layers in simulate(network, image[np.newaxis], TIMESTEPS):
        for index, fan_out in enumerate(network.fan_outs):
            fired = layers[index].spikes[0]
            spikes[index] += int(fired.sum())
            operations[index] += int(fan_out[fired].sum())
    return Counts(spikes, operations, [math.prod(shape) for shape in network.shapes])


def estimated(counts: Counts) -> Estimate:
    """Return the estimate that `run` gives for these counts; input neurons are counted, so no pixels are added."""
    return estimate(NetworkSize(counts.neurons, 0), TIMESTEPS, sum(counts.spikes), sum(counts.synaptic_operations))


def operations_per_core(counts: Counts) -> float:
    """Return the synaptic operations in one step of a core of the busiest layer, as the compiler divided it."""
    lines = [line for line in COMPILER_CORES.read_text().splitlines() if not line.startswith("#")]
    cores = {int(row["layer"]): int(row["cores"]) for row in csv.DictReader(lines) if row["network"] == "pilotnet_snn"}
    received = dict(enumerate(counts.synaptic_operations, start=1))
    return max(received[layer] / cores[layer] for layer in received) / TIMESTEPS


def rows(found: Estimate) -> list[dict[str, str]]:
    """Return one row per quantity: measured, the ends of the estimate, and each end as a share of what was measured."""
    measured = {"ms": 1e3 / IMAGES_PER_SECOND, "mJ": 1e3 * DYNAMIC_WATTS / IMAGES_PER_SECOND}
    ends = {"ms": found.loihi1_seconds, "mJ": found.loihi1_joules}
    return [
        {
            "per image": name,
            "measured, Loihi 2": f"{measured[unit]:.2f} {unit}",
            "estimated, low": f"{1e3 * ends[unit][0]:.2f} {unit}",
            "estimated, high": f"{1e3 * ends[unit][1]:.2f} {unit}",
            "low / measured": f"{1e3 * ends[unit][0] / measured[unit]:.2f}",
            "high / measured": f"{1e3 * ends[unit][1] / measured[unit]:.2f}",
        }
        for name, unit in (("time", "ms"), ("dynamic energy", "mJ"))
    ]


def main() -> None:
    """Write the file, and print what the measured time says of one synaptic operation."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    counts = counted()
    write_atomically(OUTPUT, as_csv(rows(estimated(counts))))
    busiest = operations_per_core(counts)
    step = 1e9 / IMAGES_PER_SECOND / TIMESTEPS
    print(f"{busiest:,.0f} synaptic operations per step in a core of the busiest layer")
    print(f"{step / 1e3:.1f} us per step, at most {step / busiest:.2f} ns per synaptic operation")


if __name__ == "__main__":
    main()
