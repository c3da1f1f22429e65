"""From a PyTorch CNN to a spiking network in Loihi's integers.

=======================  =======================================================================================
**balance**              `ReluNetwork` -> `SpikingNetwork`, in floating point
``methods``              `METHODS`: a line a method
``balancing``            ``balance``: the choice between methods, and the correction of biases
**quantize**             `SpikingNetwork` -> `QuantizedNetwork`, in integers
``quantization``         ``quantize``: layer by layer, for each target
``scales``               one layer: its scales for Lava, and its rounding
``chip_scales``          one layer: its scales for the circuit of stock neurons on Loihi 2
``readout``              the largest T of a file, and a last layer in two digits
``quantization_report``  what rounding costs, layer by layer
**both**
``options``              `BalanceOptions` and `QuantizeOptions`
``agreement``            calibration images, and the agreement with the CNN on them
``flow``                 ``to_integers``: choose, balance, quantize, measure; the number of relay copies
**graded spikes**        `ReluNetwork` -> `GradedNetwork`
``graded``               ``to_graded``
``graded_rounding``      units, messages, weights and biases of each layer
=======================  =======================================================================================
"""
