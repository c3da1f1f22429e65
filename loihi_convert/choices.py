"""Every closed set of names that a user chooses from, once: the library's types, and the choices of the command line.

Nothing here imports more than `typing`, so that a wrong choice is refused before NumPy or torch is loaded.
"""

from __future__ import annotations

from typing import Literal

Method = Literal[
    "ngu-lee",
    "spike-norm",
    "rmp",
    "act-norm",
    "robust-norm",
    "act-norm-channelwise",
    "percentile",
    "least-squares",
    "qcfs",
]
"""How firing thresholds are balanced; see `conversion.options.BalanceOptions`."""

AnyMethod = Literal["auto", Method]
"""A `Method`, or ``auto``: the one whose classes, or outputs, agree best with the CNN's on calibration images."""

Amplitude = Literal["compensated", "literal"]
"""What a spike adds to the next layer's input: the threshold of its neuron, or 1."""

InitialPotential = Literal["zero", "half"]
"""The membrane potential before the first step: 0, or half of the threshold."""

InputCoding = Literal["constant", "poisson"]
"""How pixels enter: the same current in each step, or random spikes."""

Reset = Literal["soft", "hard"]
"""After a spike: subtract the threshold, or set the potential to 0."""

Task = Literal["classification", "regression"]
"""What the outputs are: scores of classes, or numbers in the CNN's units."""

Readout = Literal["potential", "spikes"]
"""What the class is read from: the last layer's membrane potentials, or its spike counts."""

Target = Literal["lava", "loihi2"]
"""The platform: Lava's CPU simulator, with custom soft-reset neurons, or the stock processes of a Loihi 2 chip."""

Granularity = Literal["channel", "scalar"]
"""One threshold per channel, or one per layer."""

BackendName = Literal["ref", "sim", "loihi2"]
"""What runs a file: exact integers in this process, Lava's CPU simulator, or a Loihi 2 board."""

Layout = Literal["processes", "layers"]
"""How `sim` lays out a network on Lava. ``processes``: Lava's own Conv and Dense with custom neurons, one image at a
time. ``layers``: one custom Process per layer, images batched."""

Neuron = Literal["own", "stock"]
"""What the neurons are. ``own``: what the file says, SoftResetIF or Lava's LIF. ``stock``: the circuit of stock
processes (`ir.circuit`) that files of target ``loihi2`` can be built of."""

Device = Literal["auto", "cpu", "cuda"]
"""Where to simulate; ``auto`` is a GPU if torch sees one."""

Generation = Literal["N3B2", "N3B3", "N3C1", "N3D1"]
"""Loihi 2 chips (``ChipGeneration`` in ``lava/utils/loihi.py``; N2A2 is Loihi 1). Most of INRC's are N3B3."""

DatasetName = Literal["digits", "mnist", "fashion-mnist", "cifar10"]
"""The benchmark sets."""

Architecture = Literal[
    "mnist-cnn", "digits-cnn", "fashion-mnist-cnn", "conv3-avg", "conv3-max", "vgg-small", "vgg16", "resnet20"
]
"""The CNNs that `train` builds."""

RecipeName = Literal["best", "paper"]
"""How to train: this package's recipe, or that of Ngu & Lee 2022."""

PaperTable = Literal["2", "3", "A2", "A3", "A4", "headline"]
"""Tables of Ngu & Lee 2022: methods on MNIST and Fashion-MNIST; factors alpha on both; neurons and methods on MNIST;
the numbers of the abstract."""

PaperFigure = Literal["6", "7", "8", "9", "11", "12", "A4", "A5"]
"""Its figures: accuracy against latency on MNIST, Fashion-MNIST (8), CIFAR-10 (11); firing rates (7); alpha (9);
neurons and methods (12); thresholds on MNIST (A4) and Fashion-MNIST (A5)."""

Store = Literal["float32", "float16"]
"""How a checkpoint stores weights."""
