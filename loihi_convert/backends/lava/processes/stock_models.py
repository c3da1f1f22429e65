"""Models of Lava's neurons and Sparse with Lava's behaviour, guarded, and with recording of the neurons."""

from __future__ import annotations

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset
from lava.proc.sparse.models import PySparseModelBitAcc
from lava.proc.sparse.process import Sparse

from loihi_convert.backends.lava.processes.guarded import GuardedModel
from loihi_convert.backends.lava.recording import LavaRecording, Recorder
from loihi_convert.ground.arrays import Array


@implements(proc=LIFReset, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class RecordingLifResetModel(GuardedModel, PyLifResetModelBitAcc):
    """Lava's bit-accurate LIFReset, with recording.

    Additional Process parameters: ``recording``, a `LavaRecording`; ``initial_potential`` V0 and
    ``threshold`` theta, integers that broadcast over the neurons. It records V0 + u - theta s, rounded down: the
    potential after the soft reset, which the neuron's recurrent synapse does in the next step.
    """

    def prepare(self) -> None:
        recording: LavaRecording = self.proc_params["recording"]
        self._recorder = Recorder(recording)
        self._fires = recording.spikes is not None
        self._initial_potential: Array = self.proc_params["initial_potential"]
        self._threshold: Array = self.proc_params["threshold"]
        self._spikes: Array = np.zeros(self.u.shape, np.bool_)

    def step(self) -> None:
        PyLifResetModelBitAcc.run_spk(self)
        potentials = (self.u >> self.act_shift) + self._initial_potential - self._threshold * self._spikes
        if self._fires:
            self._recorder.record_spikes(self.time_step, self._spikes[np.newaxis])
        self._recorder.record_potentials(self.time_step, potentials[np.newaxis])

    def spiking_activation(self) -> Array:
        self._spikes = super().spiking_activation()
        return self._spikes


@implements(proc=Sparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class GuardedSparseModel(GuardedModel, PySparseModelBitAcc):
    """Lava's bit-accurate Sparse."""

    def step(self) -> None:
        PySparseModelBitAcc.run_spk(self)
