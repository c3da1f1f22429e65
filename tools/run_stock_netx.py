"""Run an exported file with nothing but lava-dl: python tools/run_stock_netx.py model.net image.npy T

The image is an integer array (C, H, W). Printed is the output layer's state after T steps, in weight units. Stock netx
has hard-reset neurons that start at 0, so the numbers are those of a hard-reset network with this file's weights.
"""

import sys

import numpy as np
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.source import RingBuffer

path, image, timesteps = sys.argv[1], np.load(sys.argv[2]).astype(int), int(sys.argv[3])
net = Network(net_config=path, input_message_bits=8, reset_interval=timesteps, reset_offset=1)
# Lava's axes are W, H, C, unless the first layer is dense and takes C, H, W flattened.
pixels = image.transpose(2, 1, 0) if len(net.inp.shape) == 3 else image.ravel()
source = RingBuffer(data=np.repeat(pixels[..., None], timesteps + len(net), axis=-1))
source.s_out.connect(net.inp)
net.run(condition=RunSteps(num_steps=timesteps + len(net)), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
readout = net.out_layer.neuron
# A readout with bias is a neuron that never fires (potential in v), one without is netx's integrator (in u).
layers = net.net_config["layer"]
state = readout.v if "neuron" in layers[len(layers) - 1].f else readout.u
print(*(state.get().astype(int) >> 6))
net.stop()
