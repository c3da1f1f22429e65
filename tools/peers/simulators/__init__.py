"""The programs that `benchmark.py` compares, one file each; each runs in a separate process (`worker.py`).

Each file defines ``candidates(job)``, which imports its library and returns variants of running the job's network, by
name. A variant takes all images and returns the seconds and the output potentials after step T. All variants use the
same integers of the exported file (weights, biases, thresholds, initial potentials), in float32.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert import netx
from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.quantized import QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Synapse

# For channels that never fire. A file stores 131072, which a potential could exceed without Loihi's clipping.
_NEVER: Final = 2.0**40
# Largest number of values of one layer in a library that computes all steps at once: 1 GiB of float32.
_MAX_SIGNAL: Final = 2**28


@dataclass(frozen=True)
class Job:
    """The work of one process: an exported file and T.

    If ``batch_sizes`` is empty, the program chooses. ``arch``, ``package.module:factory``, builds the CNN of a file
    made from random weights.
    """

    path: Path
    timesteps: int
    batch_sizes: tuple[int, ...] = ()
    arch: str = ""

    @cached_property
    def network(self) -> QuantizedNetwork:
        return netx.read(self.path)


Runner = Callable[[Array], tuple[float, Array | None]]
"""From uint8 images ``(N, C, H, W)`` to seconds and output potentials after step T, ``(N, classes)``, if known."""

Batch = Callable[[Tensor], Tensor | None]
"""From pixels, float32 ``(B, C, H, W)``, to the file's output potentials after step T, ``(B, classes)``, if known."""


@dataclass(frozen=True)
class Peer:
    """A program to compare with, by its module in this folder.

    ``requirement`` is what to install, pinned; ``None`` if the project's own environment has it. One that
    ``tries_batch_sizes`` is measured at the fastest. One that ``runs_few_images`` is too slow for all, and has a new
    process for each repeat, because its own processes stay busy between them. ``limit`` names the operations that it
    runs instead of a network, such as ``float32 matrix products``.
    """

    name: str
    module: str
    requirement: str | None
    note: str
    tries_batch_sizes: bool = True
    runs_few_images: bool = False
    limit: str = ""

    def candidates(self, job: Job) -> Mapping[str, Runner]:
        """Import the library and return the variants to try."""
        found: Mapping[str, Runner] = importlib.import_module(f"simulators.{self.module}").candidates(job)
        return found


PEERS: Final[tuple[Peer, ...]] = (
    Peer(
        "ref",
        "reference",
        None,
        "this package's own backend, all images handed over at once. It also counts spikes and synaptic operations and "
        "keeps the output after every step, which the others do not.",
        tries_batch_sizes=False,
    ),
    Peer(
        "SpikingJelly",
        "spikingjelly",
        "spikingjelly==2.0.0",
        "ActivationAwareIFNode (a threshold for each channel) and IFNode (one threshold, so weights are divided by "
        "thresholds; potentials start half a unit higher, so that rounding moves no spike) in multi-step mode, and "
        "IFNode in single-step mode. The first synapse is computed once per image. With --arch: the CNN itself, "
        "IFNode in place of ReLU, which has no relays (no potentials: its weights are not the file's).",
    ),
    Peer(
        "torch",
        "torch_graph",
        None,
        "the file step by step. With --arch: the CNN itself, a loop over T in place of ReLU, all steps of a layer at "
        "once (no potentials: its weights are not the file's). The first synapse is computed once per image.",
    ),
    Peer(
        "snnTorch",
        "snntorch",
        "snntorch==1.0.0",
        "Leaky with beta = 1, reset by subtraction, a threshold tensor and surrogate_disable, step by step. It fires "
        "at > threshold: potentials start half a unit higher, which makes it >= for integers. The first synapse is "
        "computed once per image.",
    ),
    Peer(
        "sinabs",
        "sinabs",
        "sinabs==3.1.3",
        "IAF and IAFSqueeze with SingleSpike, MembraneSubtract and a threshold tensor, all steps of a layer at once. "
        "The first synapse is computed once per image.",
    ),
    Peer(
        "norse",
        "norse",
        "norse==1.1.0",
        "SequentialState of SNNCells, step by step. norse's own IAF resets to a value: the cell is its step with "
        "norse's reset_subtract and heaviside. It fires at > threshold: potentials start half a unit higher, which "
        "makes it >= for integers. The first synapse is computed once per image.",
    ),
    Peer(
        "lava-dl netx",
        "lava_dl",
        None,
        "unmodified lava-dl on Lava's CPU simulator, fixed point. Its neurons reset to 0 and start at 0 (hard reset): "
        "it computes another network, so its classes differ. A few of the images, one after the other, without the "
        "time to compile; a new process for each repeat.",
        tries_batch_sizes=False,
        runs_few_images=True,
    ),
    Peer(
        "GEMM only",
        "gemm",
        None,
        "no network, just its matrix products in float32 (torch.mm), the first layer's once per image, the others' "
        "once per image and step, operands laid out beforehand. What multiplies densely in float32 cannot pass it; "
        "what multiplies int8, or skips silent neurons, can.",
        limit="float32 matrix products",
    ),
    Peer(
        "GEMM only, int8",
        "gemm_int8",
        None,
        "the same matrix products of int8 numbers, with sums in int32 (torch._int_mm).",
        limit="int8 matrix products",
    ),
)

REF: Final = next(index for index, peer in enumerate(PEERS) if peer.module == "reference")
"""Index of `ref` in `PEERS`."""


def batched(job: Job, variants: Mapping[str, Batch], *, all_steps_at_once: bool = False) -> dict[str, Runner]:
    """Return each variant at each batch size as a runner over all images.

    Variants that compute all steps at once are also tried with 1 / T of each batch size, so that a layer processes as
    much at a time as step by step.
    """
    sizes: Sequence[int] = job.batch_sizes
    if all_steps_at_once:
        values = job.timesteps * max(math.prod(shape) for shape in job.network.shapes)
        most = max(1, _MAX_SIGNAL // values)
        fewer = (max(1, size // job.timesteps) for size in sizes)
        sizes = sorted({min(size, most) for size in (*sizes, *fewer)})
    return {
        f"{name}{', ' if name else ''}{size} images": _runner(job.network, variant, size)
        for name, variant in variants.items()
        for size in sizes
    }


def _runner(network: QuantizedNetwork, batch: Batch, size: int) -> Runner:
    @torch.inference_mode()
    def run(images: Array) -> tuple[float, Array | None]:
        started = time.perf_counter()
        outputs = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            outputs.append(batch(torch.from_numpy(network.pixels(part).astype(np.float32))))
        potentials = [each for each in outputs if each is not None]
        joined = torch.cat(potentials) if potentials else None
        seconds = time.perf_counter() - started
        return seconds, None if joined is None else joined.numpy()

    return run


def synapse_module(synapse: Synapse, factors: Tensor | None = None) -> nn.Sequential:
    """Return the synapse as torch modules: sum-pool, then convolve or multiply, then add the bias.

    ``factors``, ``(C_out,)``, scale each output channel.
    """
    weight = torch.from_numpy(synapse.weight.astype(np.float32))
    bias = None if synapse.bias is None else torch.from_numpy(synapse.bias.astype(np.float32))
    if factors is not None:
        weight = weight * factors.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = None if bias is None else bias * factors.reshape(-1, *(1,) * (bias.ndim - 1))
    modules: list[nn.Module] = []
    if synapse.pool != (1, 1):
        modules.append(nn.AvgPool2d(synapse.pool, divisor_override=1))
    per_channel = None if bias is None or bias.ndim > 1 else nn.Parameter(bias, requires_grad=False)
    operator: nn.Conv2d | nn.Linear
    if isinstance(synapse, Conv):
        channels, kernel = weight.shape[1] * synapse.groups, (weight.shape[2], weight.shape[3])
        operator = nn.Conv2d(
            channels,
            synapse.channels,
            kernel,
            stride=synapse.stride,
            padding=synapse.padding,
            dilation=synapse.dilation,
            groups=synapse.groups,
            bias=False,
        )
    else:
        modules.append(nn.Flatten())
        operator = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    operator.weight = nn.Parameter(weight, requires_grad=False)
    operator.bias = per_channel
    modules.append(operator)
    if bias is not None and bias.ndim > 1:
        modules.append(_Bias(bias))
    return nn.Sequential(*modules)


class _Bias(nn.Module):
    """A bias for each neuron of a feature map."""

    bias: Tensor

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias)

    def forward(self, signal: Tensor) -> Tensor:
        return signal + self.bias


def thresholds(layer: QuantizedLayer) -> Tensor:
    """Return the threshold of each channel, float32 ``(C,)``; out of reach for channels that never fire."""
    assert layer.threshold is not None
    values = torch.from_numpy(layer.threshold.astype(np.float32))
    return torch.where(values == limits.NEVER_FIRES, torch.tensor(_NEVER), values)


def initial_potentials(layer: QuantizedLayer) -> Tensor:
    """Return the potential of each channel before the first step, float32 ``(C,)``."""
    assert layer.initial_potential is not None
    return torch.from_numpy(layer.initial_potential.astype(np.float32))


def over_map(per_channel: Tensor, shape: Sequence[int]) -> Tensor:
    """Return values of channels in a shape that broadcasts over a layer of ``shape``: ``(C, 1, 1)``, or ``(C,)``."""
    return per_channel.reshape(-1, *(1,) * (len(shape) - 1))
