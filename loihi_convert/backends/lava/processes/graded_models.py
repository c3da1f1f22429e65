"""Lava's own models of sigma-delta neurons and their synapses, guarded, and with recording of the neurons."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.models import PyConvModelFixed
from lava.proc.conv.process import Conv
from lava.proc.dense.models import PyDenseModelBitAcc
from lava.proc.dense.process import Dense
from lava.proc.sdn.models import PyDeltaModelFixed, PySigmaDeltaModelFixed, PySigmaModelFixed
from lava.proc.sdn.process import Delta, Sigma, SigmaDelta

from loihi_convert.backends.lava.processes.guarded import GuardedConv, GuardedModel
from loihi_convert.backends.lava.recording import Recorder
from loihi_convert.ground.arrays import Array


class _Recording(GuardedModel):
    """A model whose state is written back before each image, and recorded after it.

    Process parameters: ``recording``, a `LavaRecording`, and ``is_stream``: the images are frames of one sequence, so
    that nothing is written back.
    """

    state: ClassVar[tuple[str, ...]]
    """Names of the Vars that hold the state."""

    def prepare(self) -> None:
        self._recorder = Recorder(self.proc_params["recording"])
        self._settled: dict[str, Array] = {}

    def step(self) -> None:
        if self._recorder.records(self.time_step) and not self.proc_params["is_stream"]:
            if not self._settled:
                self._settled = {name: getattr(self, name).copy() for name in self.state}
            for name, value in self._settled.items():
                setattr(self, name, value.copy())
        self.lavas_step()
        self.record()

    def lavas_step(self) -> None:
        """Do the step of Lava's model."""
        raise NotImplementedError

    def record(self) -> None:
        """Record the results of the step."""
        raise NotImplementedError


class _RecordingDelta(_Recording):
    """A model that sends changes: messages and activations are recorded."""

    state = ("sigma", "act", "residue")
    act: Array
    state_exp: Array

    def delta_dynamics(self, act_data: Array) -> Array:
        """See ``AbstractDeltaModel``; keeps what is sent."""
        sent: Array = super().delta_dynamics(act_data)
        self._sent = sent
        return sent

    def record(self) -> None:
        messages = np.right_shift(self._sent, self.state_exp)
        self._recorder.record_spikes(self.time_step, messages[np.newaxis])
        self._recorder.record_potentials(self.time_step, self.act[np.newaxis])


@implements(proc=Delta, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingDeltaModel(_RecordingDelta, PyDeltaModelFixed):
    """Lava's Delta in integers."""

    def lavas_step(self) -> None:
        PyDeltaModelFixed.run_spk(self)


@implements(proc=SigmaDelta, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingSigmaDeltaModel(_RecordingDelta, PySigmaDeltaModelFixed):
    """Lava's SigmaDelta in integers."""

    def lavas_step(self) -> None:
        PySigmaDeltaModelFixed.run_spk(self)


@implements(proc=Sigma, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class RecordingSigmaModel(_Recording, PySigmaModelFixed):
    """Lava's Sigma in integers, the output; it sends no messages."""

    state = ("sigma",)

    def lavas_step(self) -> None:
        PySigmaModelFixed.run_spk(self)

    def record(self) -> None:
        self._recorder.record_potentials(self.time_step, self.sigma[np.newaxis])


@implements(proc=Conv, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class GuardedConvModel(GuardedConv, PyConvModelFixed):
    """Lava's Conv in integers."""

    def step(self) -> None:
        PyConvModelFixed.run_spk(self)


@implements(proc=Dense, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class GuardedDenseModel(GuardedModel, PyDenseModelBitAcc):
    """Lava's bit-accurate Dense."""

    def step(self) -> None:
        PyDenseModelBitAcc.run_spk(self)
