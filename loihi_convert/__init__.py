"""Convert a trained PyTorch CNN to a spiking network for Intel Loihi 2 and Lava.

::

    import loihi_convert as lc

    snn = lc.convert(model, x_train[:2000], timesteps=8, mean=0.1307, std=0.3081)    # an nn.Module or a path
    result = snn.run(x_test, y_test)                                                 # exact integers, in memory
    result.accuracy, result.cnn_accuracy
    snn.save("model.net")                                                            # a lava-dl netx HDF5 file

The same in stages; each takes the value that the one before returned::

    relu = lc.to_relu_network(model, (1, 28, 28))     ReluNetwork       batch norm folded, ReLU between synapses
    spiking = lc.balance(relu, images, 8)             SpikingNetwork    a threshold per channel
    quantized = lc.quantize(spiking, images)          QuantizedNetwork  Loihi's integers
    lc.write(quantized, "model.net")                  a lava-dl netx HDF5 file

================  ======================================================================================================
``face``          `convert`, `load`, the network that they return, and the result of its run
``fine_tuning``   training a CNN further, so that few time steps suffice
``ground``        arrays, choices, the mechanism of options, files, progress: what every room stands on
``data``          images: the benchmark sets, a folder, an ``.npz``, arrays
``cnn``           the source CNN: architectures, training, checkpoints
``reading``       a model or a file of one -> a graph of its operations
``lowering``      that graph -> `ReluNetwork`
``ir``            the networks: ReLU, spiking, quantized
``conversion``    balance, correct, quantize
``simulation``    integrate-and-fire simulation of both networks
``chip``          every Loihi and Lava number, rules, energy
``neurocores``    how a network is divided among the cores of a chip
``netx``          the file format
``nir``           NIR files
``external``      netx files written by other tools
``backends``      run a file: exact integers (`ref`), Lava's simulator (`sim`), a board (`loihi2`)
``metrics``       figures of a run: accuracy, spikes, early exit, diagnosis
``runs``          run folders
``report``        all output formats: terminal, HTML, Markdown, pictures
``checks``        does a file fit its target? Rules on integers, channels and memory
``pipeline``      the steps of each command-line verb
``batch``         what many processes do: pure computations, kept in a folder, and sweeps of conversions
``paper``         the paper's tables and figures, measured on your networks
``cli``           the command line
================  ======================================================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from loihi_convert.cnn.recipe import TrainOptions as TrainOptions
    from loihi_convert.cnn.training import train_cnn as train_cnn
    from loihi_convert.conversion.balancing import balance as balance
    from loihi_convert.conversion.options import BalanceOptions as BalanceOptions
    from loihi_convert.conversion.options import QuantizeOptions as QuantizeOptions
    from loihi_convert.conversion.quantization import quantize as quantize
    from loihi_convert.data import load_data as load_data
    from loihi_convert.errors import LoihiConvertError as LoihiConvertError
    from loihi_convert.face import Converted as Converted
    from loihi_convert.face import Result as Result
    from loihi_convert.face import convert as convert
    from loihi_convert.face import load as load
    from loihi_convert.fine_tuning import fine_tune as fine_tune
    from loihi_convert.lowering import to_relu_network as to_relu_network
    from loihi_convert.netx import read as read
    from loihi_convert.netx import write as write

# Imported on first use, so that a command loads only what it needs.
_HOMES: Final = {
    "BalanceOptions": "conversion.options",
    "Converted": "face",
    "LoihiConvertError": "errors",
    "QuantizeOptions": "conversion.options",
    "Result": "face",
    "TrainOptions": "cnn.recipe",
    "balance": "conversion.balancing",
    "convert": "face",
    "fine_tune": "fine_tuning",
    "load": "face",
    "load_data": "data",
    "quantize": "conversion.quantization",
    "read": "netx",
    "to_relu_network": "lowering",
    "train_cnn": "cnn.training",
    "write": "netx",
}

__all__ = sorted({"__version__", *_HOMES})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("loihi-convert")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
