"""Run a network of graded spikes with only lava-dl.

    python tests/support/run_stock_graded.py FILE.net FRAMES.npy SPIKE_EXP MESSAGES.npz

FRAMES are integers (N, C, H, W), the inputs of N steps. Before them, the input is 0 until the network has settled.
Nothing is reset between frames. Written are ``layer0``, ``layer1``, ...: what each layer sends in its own step for each
frame, int32 (N, neurons), neurons in C H W order; of the last layer these are its outputs.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.io.source import RingBuffer as Source


class Record(AbstractProcess):  # type: ignore[misc]
    """Write to a file what arrives in each step, int32; Lava's own sink is read one number at a time."""

    def __init__(self, shape: tuple[int, ...], file: Path) -> None:
        super().__init__(shape=shape, file=file)
        self.a_in = InPort(shape=shape)


@implements(proc=Record, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecord(PyLoihiProcessModel):  # type: ignore[misc]
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        with self.proc_params["file"].open("ab") as file:
            self.a_in.recv().astype(np.int32).tofile(file)


path, frames, spike_exp, output = sys.argv[1], np.load(sys.argv[2]).astype(np.int32), int(sys.argv[3]), sys.argv[4]
net = Network(net_config=path, spike_exp=spike_exp)
wait = len(net) + 1
steps = wait + len(frames) + len(net)
blank, shape = np.zeros((wait, *frames.shape[1:]), np.int32), net.in_layer.neuron.a_in.shape
held = np.repeat(frames[-1:], len(net), axis=0)
# Lava's axes are W, H, C.
source = Source(data=np.concatenate([blank, frames, held]).transpose(3, 2, 1, 0))
source.s_out.connect(net.in_layer.neuron.a_in)
with tempfile.TemporaryDirectory() as folder:
    files = [Path(folder, f"layer{index}") for index in range(len(net.layers))]
    records = [Record(shape=layer.out.shape, file=file) for layer, file in zip(net.layers, files, strict=True)]
    for layer, record in zip(net.layers, records, strict=True):
        layer.out.connect(record.a_in)
    net.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    net.stop()
    sent: Any = {}
    for index, (record, file) in enumerate(zip(records, files, strict=True)):
        first = wait + index
        data = np.fromfile(file, np.int32).reshape(steps, *record.a_in.shape)[first : first + len(frames)]
        sent[f"layer{index}"] = data.transpose(0, *range(data.ndim - 1, 0, -1)).reshape(len(frames), -1)
np.savez(output, **sent)
