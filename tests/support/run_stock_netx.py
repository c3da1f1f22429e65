"""Run an exported file with only lava-dl.

    python tests/support/run_stock_netx.py model.net images.npy T potentials.npy

The images are integers (N, C, H, W): round(pixel / 255 * (2^b - 1)), b from the file's dataset
``loihi_convert/pixel_bits``. The output is the last layer's states after each step, in weight units, int32
(N, T, classes). Stock netx has hard-reset neurons that start at 0, so these are results of a hard-reset network.
"""

import sys

import numpy as np
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.source import RingBuffer

path, images, timesteps, output = sys.argv[1], np.load(sys.argv[2]).astype(np.int32), int(sys.argv[3]), sys.argv[4]
net = Network(net_config=path, input_message_bits=8, reset_interval=timesteps, reset_offset=1)
# Lava's axes are W, H, C, unless the first layer is dense and takes C, H, W flattened.
pixels = images.transpose(3, 2, 1, 0) if len(net.inp.shape) == 3 else images.reshape(len(images), -1).T
blank = np.zeros((*net.inp.shape, len(net)), np.int32)
source = RingBuffer(data=np.concatenate([pixels.repeat(timesteps, axis=-1), blank], axis=-1))
source.s_out.connect(net.inp)
readout, layers = net.out_layer.neuron, net.net_config["layer"]
# A readout with bias is a neuron that never fires (potential in v), one without is netx's integrator (in u).
state = readout.v if "neuron" in layers[len(layers) - 1].f else readout.u
states = []
for _ in range(len(images) * timesteps + len(net)):
    net.run(condition=RunSteps(num_steps=1), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    states.append(state.get().astype(np.int32) >> 6)
net.stop()
# Every layer adds one step before the first image's first step is done.
np.save(output, np.array(states[len(net) :]).reshape(len(images), timesteps, -1))
