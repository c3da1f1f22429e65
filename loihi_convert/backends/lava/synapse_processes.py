"""The synapses of an exported network as Lava's Processes, or as matrix products for a batch; Lava's axes are W, H, C.

Used only in the process that runs Lava.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loihi_convert.backends.lava.lava_types import SynapseProcess
from loihi_convert.chip import limits
from loihi_convert.ground.arrays import Array, Shape
from loihi_convert.ir.quantized import QuantizedLayer
from loihi_convert.ir.synapse import Conv, Dense, pooled_shape

if TYPE_CHECKING:
    from loihi_convert.backends.lava.processes.gemm import ConvGemm, DenseGemm


def message_bits(layer: QuantizedLayer) -> int:
    """Return the bits of a message to ``layer``: 0 for spikes, more for pixels."""
    return 0 if layer.largest_input == 1 else limits.MAX_PIXEL_BITS


def synapse_process(synapse: Conv | Dense, input_shape: Shape, bits: int, *, even: bool = False) -> SynapseProcess:
    """Return Lava's Process for one synapse, with pooling written out as in the file.

    ``bits`` are those of a message: 0 for spikes, more for integers. With ``even`` the weights are those of a synapse
    with both signs on Loihi: even 8-bit numbers -256..254 (``truncate_weights`` in ``lava/utils/weightutils.py``), here
    twice our weights, with ``weight_exp`` -1.
    """
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.dense.process import Dense as DenseProcess
    from lava.utils.weightutils import SignMode

    synapse = synapse.without_pooling(input_shape)
    factor, weight_exp = (2, -1) if even else (1, 0)
    if isinstance(synapse, Dense):
        dense: SynapseProcess = DenseProcess(
            weights=factor * _dense_weights(synapse, input_shape),
            weight_exp=weight_exp,
            sign_mode=SignMode.MIXED,
            num_message_bits=bits,
        )
        return dense
    conv: SynapseProcess = ConvProcess(
        # Lava's convolution flips the kernel where PyTorch's does not.
        weight=factor * _conv_weight(synapse)[:, ::-1, ::-1],
        weight_exp=weight_exp,
        input_shape=input_shape[::-1],
        padding=synapse.padding[::-1],
        stride=synapse.stride[::-1],
        dilation=synapse.dilation[::-1],
        groups=synapse.groups,
        num_message_bits=bits,
    )
    return conv


def synapse_models() -> dict[Any, Any]:
    """Return the models of both: custom ones, which are faster; also, Lava's CPU model of Conv ignores weight_exp."""
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.dense.process import Dense as DenseProcess

    from loihi_convert.backends.lava.processes.synapse_models import PyConvModelGemm, PyDenseModelGemv

    return {ConvProcess: PyConvModelGemm, DenseProcess: PyDenseModelGemv}


def batch_synapse(layer: QuantizedLayer, input_shape: Shape, batch_size: int) -> ConvGemm | DenseGemm:
    """Return one synapse for a batch: sum-pool, then convolve or multiply, with k^2 times fewer products."""
    from loihi_convert.backends.lava.processes.gemm import ConvGemm, DenseGemm

    synapse = layer.synapse
    if isinstance(synapse, Dense):
        return DenseGemm(_dense_weights(synapse, pooled_shape(input_shape, synapse.pool)), pool=synapse.pool[::-1])
    return ConvGemm(
        _conv_weight(synapse),
        input_shape[::-1],
        padding=synapse.padding[::-1],
        stride=synapse.stride[::-1],
        dilation=synapse.dilation[::-1],
        groups=synapse.groups,
        pool=synapse.pool[::-1],
        batch_size=batch_size,
    )


def _conv_weight(synapse: Conv) -> Array:
    """(C_out, C_in / groups, K_h, K_w) in Lava's order (C_out, K_w, K_h, C_in / groups), not yet flipped."""
    return synapse.weight.transpose(0, 3, 2, 1)


def _dense_weights(synapse: Dense, input_shape: Shape) -> Array:
    """Columns from C, H, W order to Lava's W, H, C order; ``input_shape`` is that of the weights."""
    by_axis = synapse.weight.reshape(-1, *input_shape)
    return by_axis.transpose(0, *range(len(input_shape), 0, -1)).reshape(synapse.weight.shape)
