"""The limit: only the network's matrix products, in float32 (`gemm_int8`: int8)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loihi_convert.ground.arrays import Array
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.ir.synapse import Conv
from simulators import Job, Runner


@dataclass(frozen=True)
class Product:
    """A synapse as matrix products, ``groups`` times ``(outputs, inputs) x (inputs, positions)`` for each image.

    Parameters
    ----------
    outputs, inputs
        Numbers per group; inputs after pooling, C_in K_h K_w for a convolution.
    positions
        Number of neurons per channel.
    times
        Products per image: one in the first layer, whose input is constant, T in the others.
    """

    groups: int
    outputs: int
    inputs: int
    positions: int
    times: int

    @property
    def multiply_accumulates(self) -> int:
        """Multiply-accumulates for one image, all steps."""
        return self.groups * self.outputs * self.inputs * self.positions * self.times


def products(network: QuantizedNetwork, timesteps: int) -> tuple[Product, ...]:
    """Return the matrix products of each layer, after pooling (by sums)."""
    found = []
    for index, (layer, shape) in enumerate(zip(network.layers, network.shapes, strict=True)):
        synapse = layer.synapse
        groups = synapse.groups if isinstance(synapse, Conv) else 1
        inputs = math.prod(synapse.weight.shape[1:])
        found.append(
            Product(groups, shape[0] // groups, inputs, math.prod(shape[1:]), timesteps if index else 1),
        )
    return tuple(found)


def candidates(job: Job) -> Mapping[str, Runner]:
    """See `variants`."""
    return variants(job, torch.mm, lambda *shape: torch.rand(shape), torch.float32)


def variants(
    job: Job, multiply: Callable[..., Tensor], random: Callable[[int, int], Tensor], sums: torch.dtype
) -> dict[str, Runner]:
    """Return the products by ``multiply``, of ``random`` operands into ``sums``, in all orders, for each batch size."""
    wanted = products(job.network, job.timesteps)
    return {
        f"{'W x' if weights_first else 'x W'}{', by columns' if by_columns else ''}, {size} images": _runner(
            wanted, size, multiply, random, sums, weights_first=weights_first, by_columns=by_columns
        )
        for size in job.batch_sizes
        for weights_first in (True, False)
        for by_columns in (False, True)
    }


def _runner(
    wanted: tuple[Product, ...],
    size: int,
    multiply: Callable[..., Tensor],
    random: Callable[[int, int], Tensor],
    sums: torch.dtype,
    *,
    weights_first: bool,
    by_columns: bool,
) -> Runner:
    def operands(product: Product, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return both operands, the right one stored by columns if ``by_columns``, and a place for the result."""
        rows, columns = product.outputs, product.positions * count
        if not weights_first:
            rows, columns = columns, rows
        right = random(columns, product.inputs).T if by_columns else random(product.inputs, columns)
        return random(rows, product.inputs), right, torch.empty(rows, columns, dtype=sums)

    @torch.inference_mode()
    def run(images: Array) -> tuple[float, None]:
        seconds = 0.0
        whole, rest = divmod(len(images), size)
        for count, batches in ((size, whole), (rest, min(rest, 1))):
            if not batches:
                continue
            matrices = [operands(product, count) for product in wanted]
            started = time.perf_counter()
            for _ in range(batches):
                for product, (left, right, out) in zip(wanted, matrices, strict=True):
                    for _ in range(product.groups * product.times):
                        multiply(left, right, out=out)
            seconds += time.perf_counter() - started
        return seconds, None

    return run
