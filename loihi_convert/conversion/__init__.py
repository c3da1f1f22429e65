"""From a PyTorch CNN to a spiking network in Loihi's integers.

=======================  =======================================================================================
**balance**              `ReluNetwork` -> `SpikingNetwork`, in floating point
``methods``              `METHODS`: a line a method
``balancing``            ``balance``: the choice between methods, and the correction of biases
**quantize**             `SpikingNetwork` -> `QuantizedNetwork`, in integers
``quantization``         ``quantize``: layer by layer; the largest T of a file, and a last layer in two digits
``scales``               one layer: its scales for Lava and for Loihi 2, and its rounding
**both**
``options``              `BalanceOptions` and `QuantizeOptions`
``agreement``            calibration images, and the agreement with the CNN on them
``flow``                 ``to_integers``: choose, balance, quantize, report; the number of relay copies
**graded spikes**        `ReluNetwork` -> `GradedNetwork`
``graded``               ``to_graded``
``graded_rounding``      units, messages, weights and biases of each layer
=======================  =======================================================================================
"""
