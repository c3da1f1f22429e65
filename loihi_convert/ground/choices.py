"""All sets of options a user chooses from: types for the library, choices for the command line.

Imports only the standard library: a wrong choice is refused before NumPy or torch is loaded, and the Python that runs
Lava may have no other package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

from loihi_convert.errors import UsageError, did_you_mean, one_of

MAX_TIMESTEPS: Final = 2**20
"""Largest T: at larger T an output weight of 1 exceeds Loihi's potential range within an eighth of the steps."""

TOLERANCE_POINTS: Final = 0.1
"""Percentage points of accuracy that early exit may lose against T, on the images used to choose its margin."""

MAX_SEED: Final = 2**31 - 1
"""Largest seed."""

MAX_LEVELS: Final = 256
"""Largest L."""

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
"""A `Method`, or ``auto``: the method that agrees best with the CNN on the calibration images."""

Amplitude = Literal["compensated", "literal"]
"""The amplitude of a spike, which is added to the next layer's input: the neuron's threshold, or 1."""

InitialPotential = Literal["zero", "half"]
"""The membrane potential before the first step: 0, or half of the threshold."""

InputCoding = Literal["constant", "poisson"]
"""How pixels are encoded: a constant current, or random spikes."""

Reset = Literal["soft", "hard"]
"""After a spike: subtract the threshold, or set the potential to 0."""

Task = Literal["classification", "regression"]
"""Meaning of the outputs: class scores, or numbers in the CNN's units."""

Readout = Literal["potential", "spikes"]
"""The class is read from the last layer's membrane potentials, or from its spike counts."""

Target = Literal["lava", "loihi2"]
"""The target platform: Lava's CPU simulator (custom soft-reset neurons) or a Loihi 2 chip (stock processes)."""

FileFormat = Literal["netx", "nir"]
"""The format of an exported network: lava-dl's netx (``.net``), or NIR (``.nir``), which other libraries read."""

SpikeKind = Literal["binary", "graded"]
"""What a spike carries: nothing (integrate-and-fire neurons, T steps), or an integer (sigma-delta, one step)."""

Granularity = Literal["channel", "scalar"]
"""One threshold per channel, or one per layer."""

BackendName = Literal["ref", "sim", "loihi2"]
"""The backend: exact integers in this process, Lava's CPU simulator, or a Loihi 2 board."""

LavaLayout = Literal["processes", "layers"]
"""How `sim` maps a network to Lava. ``processes``: Lava's own Conv and Dense with custom neurons, one image at a
time. ``layers``: one custom Process per layer, images in batches."""

Neuron = Literal["own", "stock"]
"""The neuron model. ``own``: as the file says, SoftResetIF or Lava's LIF. ``stock``: a circuit of stock processes
(`ir.neuron_model`), for files with target ``loihi2``."""

Device = Literal["auto", "cpu", "cuda"]
"""Where to simulate; ``auto`` uses a GPU if torch finds one."""

Generation = Literal["N3B2", "N3B3", "N3C1", "N3D1"]
"""Loihi 2 chips (``ChipGeneration`` in ``lava/utils/loihi.py``; N2A2 is Loihi 1). Most chips at INRC are N3B3."""

ClassMap: TypeAlias = Mapping[str, str | int] | Literal["sorted", "names"]
"""Folder to class, by the class's name or number: ``{"zero": 0, "one": 1}``. ``"names"``: folders are named after the
classes. ``"sorted"``: the order of torchvision's ``ImageFolder``, in which names are sorted as text, so that ``10``
comes before ``2``."""

DatasetName = Literal[
    "digits",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "mlperf-tiny-image-classification",
    "mlperf-tiny-keyword-spotting",
    "mlperf-tiny-visual-wake-words",
    "mlperf-tiny-anomaly-detection",
]
"""The benchmark sets."""


def unknown_dataset(name: str, others: str = "") -> UsageError:
    """Return the error for ``name``, which is not a data set; ``others`` names what else is possible."""
    names = get_args(DatasetName)
    hint = did_you_mean(name.lower(), names)
    return UsageError(f"found {name!r}", where="data", expected=f"{one_of(names)}{others}", hint=hint)


Architecture = Literal[
    "mnist-cnn", "digits-cnn", "fashion-mnist-cnn", "conv3-avg", "conv3-max", "vgg-small", "vgg16", "resnet20"
]
"""The CNNs that `train` builds."""

RecipeName = Literal["best", "paper"]
"""Training recipe: this package's, or that of Ngu & Lee 2022."""

PaperTable = Literal["2", "3", "A2", "A3", "A4", "headline"]
"""Tables of Ngu & Lee 2022: methods on MNIST and Fashion-MNIST; factors alpha on both; neurons and methods on MNIST;
the numbers of the abstract."""

PaperFigure = Literal["6", "7", "8", "9", "11", "12", "A4", "A5"]
"""Its figures: accuracy against latency on MNIST, Fashion-MNIST (8), CIFAR-10 (11); firing rates (7); alpha (9);
neurons and methods (12); thresholds on MNIST (A4) and Fashion-MNIST (A5)."""

Width = Literal["screen", "column", "page"]
"""Widths of figures: on a screen, in a column of a paper (85 mm), and across its page (178 mm)."""

SweepSplit = Literal["validation", "test"]
"""The images that each cell of a sweep runs."""

SweepCost = Literal["timesteps", "synops", "energy", "cores"]
"""What a cell of a sweep costs: T, synaptic operations, energy (low estimate), neurocores (high estimate)."""

WeightDtype = Literal["float32", "float16"]
"""Number format of the weights in a checkpoint."""
