"""The limit: only the network's matrix products, in float32."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loihi_convert.arrays import Array
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
    """Weights on the left or on the right, for each batch size."""
    wanted = products(job.network, job.timesteps)
    found = {}
    for size in job.batch_sizes:
        found[f"W x, {size} images"] = _runner(wanted, size, weights_first=True)
        found[f"x W, {size} images"] = _runner(wanted, size, weights_first=False)
    return found


def _runner(wanted: tuple[Product, ...], size: int, *, weights_first: bool) -> Runner:
    def operands(product: Product, count: int) -> tuple[Tensor, Tensor, Tensor]:
        weights = torch.rand(product.outputs, product.inputs)
        signal = torch.rand(product.inputs, product.positions * count)
        if weights_first:
            return weights, signal, torch.empty(product.outputs, product.positions * count)
        return signal.T.contiguous(), weights.T.contiguous(), torch.empty(product.positions * count, product.outputs)

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
                        torch.mm(left, right, out=out)
            seconds += time.perf_counter() - started
        return seconds, None

    return run
