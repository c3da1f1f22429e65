"""Run a network of graded spikes with only lava-dl.

    python tests/support/run_stock_graded.py FILE.net FRAMES.npy SPIKE_EXP MESSAGES.npz

FRAMES are integers (N, C, H, W), the inputs of N steps. Before them, the input is 0 until the network has settled.
Nothing is reset between frames. Written are ``layer0``, ``layer1``, ...: what each layer sends in its own step for each
frame, int32 (N, neurons), neurons in C H W order; of the last layer these are its outputs.
"""

import sys
from typing import Any

import numpy as np
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source

path, frames, spike_exp, output = sys.argv[1], np.load(sys.argv[2]).astype(np.int32), int(sys.argv[3]), sys.argv[4]
net = Network(net_config=path, spike_exp=spike_exp)
wait = len(net) + 1
steps = wait + len(frames) + len(net)
blank, shape = np.zeros((wait, *frames.shape[1:]), np.int32), net.in_layer.neuron.a_in.shape
held = np.repeat(frames[-1:], len(net), axis=0)
# Lava's axes are W, H, C.
source = Source(data=np.concatenate([blank, frames, held]).transpose(3, 2, 1, 0))
source.s_out.connect(net.in_layer.neuron.a_in)
sinks = []
for layer in net.layers:
    sinks.append(Sink(shape=layer.out.shape, buffer=steps))
    layer.out.connect(sinks[-1].a_in)
net.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
sent: Any = {}
for index, sink in enumerate(sinks):
    first = wait + index
    data = sink.data.get().astype(np.int32)[..., first : first + len(frames)]
    sent[f"layer{index}"] = data.T.reshape(len(frames), -1)
net.stop()
np.savez(output, **sent)
