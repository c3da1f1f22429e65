"""`ref`: this package's own backend, through its public interface."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from loihi_convert import netx
from loihi_convert.backends.backend import open_backend
from loihi_convert.ground.arrays import Array
from simulators import Job, Runner


def candidates(job: Job) -> Mapping[str, Runner]:
    """All images in one call or, if batch sizes are given, in calls of that size, timed with reading the file."""
    return {f"{size} images" if size else "its own": _runner(job, size) for size in job.batch_sizes or (0,)}


def _runner(job: Job, size: int) -> Runner:
    def run(images: Array) -> tuple[float, Array]:
        seconds, potentials = 0.0, list[Array]()
        with open_backend("ref") as backend:
            for start in range(0, len(images), size or len(images)):
                began = time.perf_counter()
                result = backend.run(netx.read(job.path), images[start : start + (size or len(images))], job.timesteps)
                seconds += time.perf_counter() - began if size else result.seconds
                potentials.append(result.potentials[:, -1])
        return seconds, np.concatenate(potentials)

    return run
