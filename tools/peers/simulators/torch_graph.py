"""Plain torch: the CNN itself, and a loop over T for its neurons."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from simulators import Job, Runner, batched
from simulators.graph import graph_batch


def candidates(job: Job) -> Mapping[str, Runner]:
    """Both orders of an image's values in memory."""
    formats = {"": torch.contiguous_format, "channels last": torch.channels_last}
    variants = {name: graph_batch(job.arch, fire, job.timesteps, order) for name, order in formats.items()}
    return batched(job, variants, all_steps_at_once=True)


def fire(currents: Tensor) -> Tensor:
    """Integrate ``(T, B, ...)``, fire at 1, subtract 1."""
    potential = torch.zeros_like(currents[0])
    spikes = torch.empty_like(currents)
    for current, spike in zip(currents, spikes, strict=True):
        potential += current
        torch.ge(potential, 1, out=spike)
        potential -= spike
    return spikes
