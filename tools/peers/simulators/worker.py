"""One program in a separate process: chooses the fastest variant, then runs once for each line that it reads.

``python -m simulators.worker REQUEST`` in the folder `tools/peers`; REQUEST is JSON, see `Request`. Answers are lines
of JSON on stdout; output of libraries goes to stderr.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from loihi_convert.ground.arrays import Array
from simulators import PEERS, Job, Runner

_WARM_UP_IMAGES: Final = 16


@dataclass(frozen=True)
class Request:
    """The request of `benchmark.py` to this process: a `Job` of ``PEERS[peer]``, and its threads.

    Files are the exported network, the images, uint8 ``(N, C, H, W)`` in ``.npy``, and, where the program has them, the
    output potentials after step T.
    """

    peer: int
    network: str
    images: str
    potentials: str
    timesteps: int
    batch_sizes: tuple[int, ...]
    threads: int
    arch: str = ""

    def json(self) -> str:
        return json.dumps(asdict(self))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    request = Request(**json.loads(sys.argv[1]))
    torch.set_num_threads(request.threads)
    peer = PEERS[request.peer]
    images = np.load(request.images)
    idle = peak_memory()
    job = Job(Path(request.network), request.timesteps, tuple(request.batch_sizes), request.arch)
    candidates = peer.candidates(job)
    choice = next(iter(candidates)) if peer.runs_few_images else fastest(candidates, images, job.batch_sizes)
    versions = {name: _version(name) for name in (*_distributions(peer.requirement, peer.module), "torch", "numpy")}
    print(json.dumps({"choice": choice, "versions": versions, "idle_bytes": idle}), file=answers)
    for _ in sys.stdin:
        seconds, potentials = candidates[choice](images)
        if potentials is not None:
            np.save(request.potentials, potentials)
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_memory()}), file=answers)


def fastest(candidates: Mapping[str, Runner], images: Array, batch_sizes: Sequence[int]) -> str:
    """Return the fastest variant, tried with enough images to fill the largest batch.

    A single variant is not timed, but runs all images once, so that what it does only in its first run with blocks of
    their size is not measured.
    """
    if len(candidates) == 1:
        ((name, runner),) = candidates.items()
        runner(images)
        return name
    trial = images[: max(batch_sizes)]
    tried = {}
    for name, runner in candidates.items():
        runner(trial[:_WARM_UP_IMAGES])
        tried[name] = runner(trial)[0]
    return min(tried, key=lambda name: tried[name])


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes.

    ``ru_maxrss`` is not used: on Linux exec keeps the parent's value, and the parent is large.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _distributions(requirement: str | None, module: str) -> tuple[str, ...]:
    if module == "lava_dl":
        return ("lava-dl", "lava-nc")
    return () if requirement is None else (requirement.split("==")[0],)


def _version(name: str) -> str:
    return importlib.metadata.version(name)


if __name__ == "__main__":
    main()
