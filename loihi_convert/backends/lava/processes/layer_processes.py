"""One Process per layer, with synapse and neurons in one, for batches of images.

Fewer Processes do more work per step: Lava's overhead for messages and synchronization is paid once per batch. The
timing is that of Lava's Conv or Dense followed by neurons: in each step a layer fires with the current of the previous
step and sends its spikes, then receives spikes and computes the current for the next step. So all layers compute at the
same time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from loihi_convert.backends.lava.processes.neuron_processes import (
    IntegratingModel,
    IntegratingNeurons,
    ReadoutModel,
    SpikingModel,
    SpikingNeurons,
)
from loihi_convert.ground.arrays import Array

SynapseFunction = Callable[[Array, Array], None]
"""Writes the currents of inputs ``(B, *input_shape)`` into float32 ``(B, *shape)``; `gemm.ConvGemm` or `DenseGemm`."""


class SpikingLayer(SpikingNeurons):
    """A synapse and its `SpikingNeurons`, for B images.

    Parameters
    ----------
    input_shape
        ``(W, H, C)`` or ``(N,)``.
    synapse
        Function from inputs to current.
    shape, batch_size, neurons
        As in `SpikingNeurons`.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        synapse: SynapseFunction,
        shape: tuple[int, ...],
        batch_size: int,
        **neurons: Any,
    ) -> None:
        super().__init__(
            synapse=synapse, shape=shape, output_shape=(batch_size, *shape), batch_size=batch_size, **neurons
        )
        self.s_in = InPort(shape=(batch_size, *input_shape))


class IntegratingLayer(IntegratingNeurons):
    """A synapse and its `IntegratingNeurons`, which do not fire, for B images; parameters as in `SpikingLayer`."""

    def __init__(
        self, *, input_shape: tuple[int, ...], synapse: SynapseFunction, batch_size: int, **neurons: Any
    ) -> None:
        super().__init__(synapse=synapse, batch_size=batch_size, **neurons)
        self.s_in = InPort(shape=(batch_size, *input_shape))


class SynapticCurrent(IntegratingModel):
    """Neurons whose current comes from their own synapse, one step after its inputs."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.uint8, precision=8)

    def prepare(self) -> None:
        super().prepare()
        self._synapse: SynapseFunction = self.proc_params["synapse"]
        self._sums: Array = np.zeros(self.v.shape, np.float32)

    def step(self) -> None:
        self.advance(self._sums.astype(np.int32))
        self._synapse(self.s_in.recv(), self._sums)


@implements(proc=SpikingLayer, protocol=LoihiProtocol)
@requires(CPU)
class PySpikingLayerModel(SynapticCurrent, SpikingModel):
    """Matrix products and integers in NumPy."""


@implements(proc=IntegratingLayer, protocol=LoihiProtocol)
@requires(CPU)
class PyIntegratingLayerModel(SynapticCurrent, ReadoutModel):
    """Matrix products and integers in NumPy."""
