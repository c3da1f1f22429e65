"""Compute every layer's states with only lava-dl.

    python tests/support/run_stock_states.py FILE.net INPUT.npy T STATES.npz

INPUT is one sample of integers in the network's input shape, C H W: the biases of its input neurons where it has such,
else graded spikes of 8 bits, shown at every step. Written are ``u0``, ``v0``, ``u1``, ...: int32 (steps, neurons) of
each layer after each of its own T steps, neurons in C H W order; of layers of more than 4096 neurons, which Lava hands
out ten in a millisecond, only after the last step.
"""

import sys
from typing import Any

import numpy as np
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.source import RingBuffer

LARGEST_READ_EVERY_STEP = 4096

path, sample, timesteps, output = sys.argv[1], np.load(sys.argv[2]).astype(np.int32), int(sys.argv[3]), sys.argv[4]
probe = Network(net_config=path)
has_input_neurons = type(probe.layers[0]).__name__ == "Input"
# After a source the first synapse answers one step later than a first layer of neurons starts.
delay = 0 if has_input_neurons else 1
net = Network(net_config=path, input_message_bits=0 if has_input_neurons else 8, reset_interval=timesteps,
              reset_offset=delay)  # fmt: skip
if has_input_neurons:
    net.in_layer.neuron.bias_mant.init = sample.T
else:
    # Lava's axes are W, H, C, unless the first layer is dense and takes C, H, W flattened.
    shown = sample.T if len(net.inp.shape) == 3 else sample.reshape(-1)
    source = RingBuffer(data=shown[..., np.newaxis].repeat(timesteps + len(net) + 1, axis=-1))
    source.s_out.connect(net.inp)
states: dict[str, list[np.ndarray]] = {}
for step in range(timesteps + len(net) - 1 + delay):
    net.run(condition=RunSteps(num_steps=1), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    for index, layer in enumerate(net.layers):
        own = step - index - delay
        is_read = np.prod(layer.shape) <= LARGEST_READ_EVERY_STEP or own == timesteps - 1
        if 0 <= own < timesteps and is_read:
            for name in ("u", "v"):
                state = getattr(layer.neuron, name).get().astype(np.int32)
                states.setdefault(f"{name}{index}", []).append(state.T.reshape(-1))
net.stop()
arrays: Any = {name: np.array(steps) for name, steps in states.items()}
np.savez(output, **arrays)
