"""Compare `ref` with other simulators, or measure its cost: python tools/peers/benchmark.py {peers,cost} ...

``peers``   runs one exported network with the same images and threads in every library that can be installed
            (`simulators/`). Each has a separate process and, through uv, a separate environment. Measured are speed,
            classes and output potentials.
``cost``    measures time and peak memory of `ref` against T, threads, number of images, images per call, and width and
            depth of the network, each in a new process.

Repeats are interleaved (A B C A B C ...), so that changes of the machine's speed affect all programs. If others use the
machine at the same time, results are unreliable: compare minima and maxima.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from against_peers import measure_peers
from cost import DEPTH_CHANNELS, measure_cost
from simulators import PEERS
from subject import NETWORKS, NOISE

from loihi_convert.__main__ import exit_code
from loihi_convert.data import default_root


def main() -> int:
    """Run the command line; return the exit code."""
    options = read_options()
    return exit_code(lambda: options.measure(options))


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options on the command line, or ``arguments``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="{peers,cost}")
    for name, measure, help_text in (
        ("peers", measure_peers, "beside other simulators"),
        ("cost", measure_cost, "time and memory of ref"),
    ):
        verb = verbs.add_parser(name, help=help_text)
        verb.set_defaults(measure=measure)
        verb.add_argument("model", nargs="?", type=Path, metavar="MODEL.net", help="an exported file; or --network")
        verb.add_argument("--network", choices=NETWORKS, help="a network with random weights, exported for this run")
        verb.add_argument("--data", help=f"data set, folder or .npz of images, or {NOISE}; default: the network's")
        shape = "of noise, as --arch gets; default: 3,224,224"
        verb.add_argument("--input-shape", type=_shape, default=(3, 224, 224), help=shape)
        verb.add_argument("--data-root", type=Path, default=default_root(), help="default: %(default)s")
        verb.add_argument("--images", type=int, default=1000, help="test images; default: %(default)s")
        verb.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
        verb.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
        verb.add_argument("--patience", type=float, default=1800, help="seconds for one answer; default: %(default)s")
        verb.add_argument("--arch", metavar="MODULE:FACTORY", help="or your own CNN, with random weights")
        if name == "peers":
            verb.add_argument("-T", "--timesteps", type=int, help="default: what the file is balanced for, or 8")
            verb.add_argument("--batch-sizes", type=_numbers, default=(4, 16, 64, 256), help="default: 4,16,64,256")
            verb.add_argument("--lava-images", type=int, default=2, help="for lava-dl; default: %(default)s")
            ratio = "fail unless ref is at least this much faster than each other program, each at its best"
            verb.add_argument("--at-least", type=float, metavar="RATIO", help=ratio)
            names = ",".join(peer.module for peer in PEERS)
            verb.add_argument("--only", default=names, help="a selection from %(default)s; ref is always included")
        else:
            verb.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write tables as .md and .csv there")
            steps = "where T does not vary; default: 8, or the largest that the file allows"
            verb.add_argument("-T", "--timesteps", type=int, help=steps)
            for curve, default, values in (
                ("timesteps", tuple(2**power for power in range(10)), "T"),
                ("images", (10, 100, 1000, 10_000), "numbers of images"),
                ("widths", (8, 16, 32, 64, 128), "c of networks c5-2ap-(2c)5-2ap-classes with random weights"),
                ("depths", (1, 2, 4, 8, 16), f"numbers of convolutions {DEPTH_CHANNELS}c3 before 2ap-classes"),
                ("threads", (1, len(os.sched_getaffinity(0))), "numbers of threads"),
            ):
                shown = f"{values}; default: {','.join(map(str, default))}"
                verb.add_argument(f"--sweep-{curve}", type=_numbers, default=default, help=shown)
    options = parser.parse_args(arguments)
    if options.arch is not None and getattr(options, "at_least", None) is not None:
        parser.error("--at-least needs a file or --network: with --arch some programs run the CNN, not the file")
    return options


def _shape(text: str) -> tuple[int, ...]:
    shape = _numbers(text)
    if len(shape) != 3:
        raise argparse.ArgumentTypeError(f"{text}: must be channels, height, width, as in 3,224,224")
    return shape


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(",") if part)
    if any(number < 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: must be whole numbers from 1, as in 1,2,4")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
