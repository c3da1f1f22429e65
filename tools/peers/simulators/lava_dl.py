"""Unmodified lava-dl: netx runs the file on Lava's CPU simulator, as in `run_stock_netx.py`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from loihi_convert.backends.lava.host import import_lava
from loihi_convert.ground.arrays import Array
from simulators import Job, Runner


def candidates(job: Job) -> Mapping[str, Runner]:
    """One network that receives one image after another; the output is read after a run of T steps."""
    import_lava()
    # Imported by lava-dl's object detection; netx does not use it.
    sys.modules.setdefault("cv2", ModuleType("cv2"))
    from lava.lib.dl.netx.hdf5 import Network
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    steps = job.timesteps

    def run(images: Array) -> tuple[float, Array]:
        net = Network(net_config=str(job.path), input_message_bits=8, reset_interval=steps, reset_offset=1)
        # The first image is run twice, because Lava compiles in the first run.
        pixels = job.network.pixels(np.concatenate([images[:1], images])).astype(np.int32)
        # Lava's axes are W, H, C; a dense first layer takes flattened C, H, W.
        shown = pixels.transpose(3, 2, 1, 0) if len(net.inp.shape) == 3 else pixels.reshape(len(pixels), -1).T
        blank = np.zeros((*net.inp.shape, len(net)), np.int32)
        source = RingBuffer(data=np.concatenate([shown.repeat(steps, axis=-1), blank], axis=-1))
        source.s_out.connect(net.inp)
        config = Loihi2SimCfg(select_tag="fixed_pt")
        readout, layers = net.out_layer.neuron, net.net_config["layer"]
        # With bias the readout is a neuron that never fires (potential in v), else netx's integrator (in u).
        state = readout.v if "neuron" in layers[len(layers) - 1].f else readout.u
        net.create_runtime(run_cfg=config)
        # At this level Lava logs the exceptions of its processes.
        net.runtime.log.setLevel(logging.INFO)
        net.runtime.log.addHandler(logging.StreamHandler())
        # Every layer delays the first image's output by one step.
        net.run(condition=RunSteps(num_steps=len(net) + steps), run_cfg=config)
        started = time.perf_counter()
        potentials = []
        for _ in images:
            net.run(condition=RunSteps(num_steps=steps), run_cfg=config)
            potentials.append(state.get().astype(np.int32) >> 6)
        seconds = time.perf_counter() - started
        net.stop()
        return seconds, np.array(potentials).reshape(len(images), -1)

    return {"1 image": run}
