"""Digests of what a setting gives today, by which stored tables of an earlier conversion are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np

from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.quantization import quantize
from loihi_convert.ground.arrays import Array, arrays_digest
from loihi_convert.ground.devices import torch_threads
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.paper.measurements import BalancedNetwork, to_integers
from loihi_convert.paper.variants import BEST, VARIANTS, PaperSetting, setting
from loihi_convert.report.paper import Cell

_TIMESTEPS: Final = 4


def fingerprint(made: PaperSetting | None) -> str:
    """Return 12 hexadecimal digits of the integers that a setting gives; None: of what ``auto`` gives."""
    return _of(None if made is None else replace(made, timesteps=_TIMESTEPS, is_subset=False, is_exported=False))


def row_fingerprint(row: Mapping[str, str]) -> str:
    """Return today's `fingerprint` of a row of a CSV table; empty for the CNN."""
    if row["variant"] == BEST.name:
        return fingerprint(None)
    steps = int(row["timesteps"]) if row["timesteps"] else None
    alpha = float(row["alpha"]) if row["alpha"] else None
    cell = Cell(row["table"], row["data"], row["method"], row["reset"] or None, alpha, steps, None)
    seed, bits = int(row["poisson_seed"] or 0), int(row["weight_bits"] or 8)
    made = setting(cell, VARIANTS[row["variant"]], seed=seed, weight_bits=bits)
    return "" if made is None else fingerprint(made)


@cache
def _of(made: PaperSetting | None) -> str:
    network, images = _probe()
    with torch_threads(1):
        if made is None:
            found = quantize(balance(network, images, _TIMESTEPS), images)
        else:
            spiking = balance(network, images, _TIMESTEPS, replace(made.balancing, readout="spikes"))
            found = to_integers(network, BalancedNetwork.of(spiking).for_readout(made.balancing.readout), made, images)
    neurons = [layer.neuron for layer in found.spiking_layers if layer.neuron is not None]
    values = [array for neuron in neurons for array in (neuron.threshold, neuron.initial_potential)]
    values += [array for layer in found.layers for array in (layer.weight, layer.bias) if array is not None]
    return arrays_digest([array.astype("<i8") for array in values])[:12]


def _probe() -> tuple[ReluNetwork, Array]:
    """The CNN, two convolutions with biases and pooling, and 48 images."""
    layers = (
        ReluLayer("conv1", Conv(_eighths(4, 1, 3, 3), padding=(1, 1))),
        ReluLayer("conv2", Conv(_eighths(6, 4, 3, 3), _eighths(6), padding=(1, 1), pool=(2, 2))),
        ReluLayer("fc", Dense(_eighths(5, 24), _eighths(5), pool=(2, 2))),
    )
    index = np.arange(48 * 64)
    return ReluNetwork((1, 8, 8), layers), (255 * (index * index % 31 < 12)).astype(np.uint8).reshape(48, 1, 8, 8)


def _eighths(*shape: int) -> Array:
    """Multiples of 1/8 in -1..1 that look random."""
    index = np.arange(np.prod(shape)) + 3
    found: Array = ((index * index * index % 101 % 17 - 8) / 8).reshape(shape)
    return found
