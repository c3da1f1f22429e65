"""The process in which Lava lives: ``python -m loihi_convert.backends.lava_host FOLDER TOKEN PARENT``.

Started, fed and ended by `lava.py`, whose pipes are its stdin and stdout. It builds one Lava network per request::

    ImageSource -> Conv -> SoftResetIF -> Conv -> SoftResetIF -> Dense -> Integrator or SoftResetIF

Conv and Dense answer one step later, so layer i (from 0) does its local step t = 1..T of image k at global step
kT + t + i + 1, and starts each image by a reset of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import importlib.metadata
import json
import logging
import os
import pickle
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import process as multiprocessing_process
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert import loihi
from loihi_convert.backends.lava import RunFolder, how_it_ended, remove_shared_memory
from loihi_convert.network import QuantizedLayer, QuantizedNetwork
from loihi_convert.synapse import Array, Conv, Dense, Shape

_WATCH_SECONDS: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1

# Messages that a channel of Lava can hold. All Processes take each step together, so at most one waits; Lava's default
# of 64 only takes 32 times the shared memory.
_CHANNEL_SIZE: Final = 2


def main(folder: Path, token: str, parent: int) -> None:
    """Serve run requests until stdin ends."""
    host = _Watched(folder, token, parent)
    try:
        import_lava()
    except ImportError as error:
        host.answer(event="missing", reason=str(error))
        return
    host.answer(event="ready", versions=_versions())
    for line in sys.stdin:
        request = json.loads(line)
        run_folder = RunFolder(Path(request["folder"]))
        host.failure = run_folder.failure
        try:
            seconds = _simulate(run_folder, request["timesteps"], request["trace"], host)
        except Exception as error:
            traceback.print_exc()
            host.fail(f"{type(error).__name__}: {error}")
        else:
            host.answer(event="finished", seconds=seconds)


class _Watched:
    """This process, its answers to the parent, and a thread that notices when a child or the parent has gone.

    A child that ends would leave Lava waiting for ever; a parent that ends would leave everything else.
    """

    def __init__(self, folder: Path, token: str, parent: int) -> None:
        self._folder, self._token, self._parent = folder, token, parent
        self._stepping = False
        self._failed = False
        self.failure = Path()
        # Lava prints: what is meant for stdout goes to the log, and the pipe is ours alone.
        self._pipe = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        # Names by which the parent finds what Lava leaves in /dev/shm when it is killed; the standard library has no
        # public way to set them.
        shared_memory._SHM_NAME_PREFIX = f"/{token}-"  # type: ignore[attr-defined]
        shared_memory._SHM_SAFE_NAME_LENGTH = len(token) + 18  # type: ignore[attr-defined]
        settings = multiprocessing_process.current_process()._config  # type: ignore[attr-defined]
        settings["semprefix"] = f"/{token}"
        # Where its sockets go: ``folder``, removed with everything else. It is the working folder, children inherit it,
        # and is called by its short name, because a socket's may have no more than 107 bytes.
        settings["tempdir"] = "."
        _let_children_die_with_their_parent()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """While it holds, no child may end, not even cleanly."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    def answer(self, **message: Any) -> None:
        os.write(self._pipe, json.dumps(message).encode() + b"\n")

    def fail(self, reason: str) -> None:
        """Answer that the run failed, with the reason that the model itself gave if there is one."""
        self._failed = True
        with contextlib.suppress(OSError):
            reason = self.failure.read_text(encoding="utf-8")
        self.answer(event="failed", reason=reason)

    def _watch(self) -> None:
        while True:
            if os.getppid() != self._parent:
                remove_shared_memory(self._token)
                shutil.rmtree(self._folder, ignore_errors=True)
                os.killpg(0, signal.SIGKILL)
            if not self._failed and (ended := _ended_child()) and (ended.si_status != 0 or self._stepping):
                self.fail(f"a process of Lava's {how_it_ended(ended)}")
            time.sleep(_WATCH_SECONDS)


def _ended_child() -> os.waitid_result | None:
    # WNOWAIT: multiprocessing itself must find the child later.
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None


def _let_children_die_with_their_parent() -> None:
    """Have the kernel kill every forked child when its parent ends (more exactly, the thread that forked it)."""
    prctl = ctypes.CDLL(None).prctl
    forking = os.getpid()

    def before() -> None:
        nonlocal forking
        forking = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have ended before that took effect.
        if os.getppid() != forking:
            os._exit(1)

    os.register_at_fork(before=before, after_in_child=in_child)


def import_lava() -> None:
    """Import Lava on any Python: 3.11 and later refuse a dataclass that has no hash as another one's default value."""
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        def decorate(cls: Any) -> Any:
            needs_hash = cls.__module__ == "lava.magma.compiler.var_model"
            return original(**{"unsafe_hash": True, **options} if needs_hash else options)(cls)

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass
    try:
        import lava.magma.compiler.var_model
    finally:
        dataclasses.dataclass = original
    import lava.proc.conv.process
    import lava.proc.dense.process  # noqa: F401


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "numpy": np.__version__}
    # A checkout of Lava on the path has no version.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["lava-nc"] = importlib.metadata.version("lava-nc")
    return found


def _simulate(folder: RunFolder, timesteps: int, trace: bool, host: _Watched) -> float:
    """Run one network on all its images; return the seconds that the steps took."""
    from lava.magma.core.process.process import ProcessServer
    from lava.magma.core.process.variable import VarServer
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.dense.process import Dense as DenseProcess

    from loihi_convert.backends.lava_processes.synapses import PyConvModelGemm, PyDenseModelGemv

    network: QuantizedNetwork = pickle.loads(folder.network.read_bytes())
    image_count = len(np.load(folder.images, mmap_mode="r"))
    source = _build(network, folder, timesteps, trace)
    source.create_runtime(
        run_cfg=Loihi2SimCfg(exception_proc_model_map={ConvProcess: PyConvModelGemm, DenseProcess: PyDenseModelGemv}),
        compile_config={"pypy_channel_size": _CHANNEL_SIZE},
    )
    with host.stepping():
        started = time.perf_counter()
        source.run(RunSteps(num_steps=image_count * timesteps + len(network.layers)))
        seconds = time.perf_counter() - started
    source.stop()
    # Lava keeps every Process and Var, with its weights, and one log handler per Process.
    ProcessServer().reset_server()
    VarServer().reset_server()
    logging.getLogger().handlers.clear()
    del source
    gc.collect()
    return seconds


def _build(network: QuantizedNetwork, folder: RunFolder, timesteps: int, trace: bool) -> Any:
    """Connect the Lava Processes of ``network``; return the first of them."""
    from loihi_convert.backends.lava_processes.neurons import Integrator, SoftResetIF
    from loihi_convert.backends.lava_processes.source import ImageSource

    shapes = (network.input_shape, *network.shapes)
    synapses = [_synapse_process(layer, shape) for layer, shape in zip(network.layers, shapes[:-1], strict=True)]
    source = ImageSource(
        shape=synapses[0].s_in.shape, images=str(folder.images), timesteps=timesteps, steps=str(folder.steps)
    )
    processes = [source]
    output, last, fan_outs = source.s_out, len(network.layers) - 1, network.fan_outs
    for index, (layer, synapse) in enumerate(zip(network.layers, synapses, strict=True)):
        shape = network.shapes[index]
        bias = np.zeros(1, np.int32) if layer.bias is None else layer.bias.transpose()
        timing: dict[str, Any] = {"reset": network.reset, "reset_interval": timesteps, "reset_offset": index + 2}
        output.connect(synapse.s_in)
        if layer.neuron is None:
            neuron = Integrator(shape=shape, bias=bias, potentials=str(folder.potentials), **timing)
        else:
            recorded = (folder.output_spikes, folder.potentials) if index == last else folder.layer_trace(index)
            neuron = SoftResetIF(
                shape=shape[::-1],
                output_shape=shape if index == last else synapses[index + 1].s_in.shape,
                threshold=layer.neuron.threshold,
                initial_potential=layer.neuron.initial_potential,
                bias=bias,
                fan_out=fan_outs[index].transpose(),
                column=index,
                spike_counts=str(folder.spike_counts),
                synaptic_operations=str(folder.synaptic_operations),
                trace=tuple(map(str, recorded)) if trace or index == last else (),
                **timing,
            )
            output = neuron.s_out
        synapse.a_out.connect(neuron.a_in)
        processes += [synapse, neuron]
    for process in processes:
        process.proc_params["failure"] = str(folder.failure)
    return source


def _synapse_process(layer: QuantizedLayer, input_shape: Shape) -> Any:
    """Lava's Process of one synapse, pooling written out as in the file."""
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.dense.process import Dense as DenseProcess

    synapse = layer.synapse.without_pooling(input_shape)
    # 0 message bits: spikes; more: integers.
    message_bits = 0 if layer.largest_input == 1 else loihi.MAX_PIXEL_BITS
    if isinstance(synapse, Dense):
        return DenseProcess(weights=_dense_weights(synapse, input_shape), num_message_bits=message_bits)
    return ConvProcess(
        weight=_conv_weight(synapse),
        input_shape=input_shape[::-1],
        padding=synapse.padding[::-1],
        stride=synapse.stride[::-1],
        dilation=synapse.dilation[::-1],
        groups=synapse.groups,
        num_message_bits=message_bits,
    )


def _conv_weight(synapse: Conv) -> Array:
    """(C_out, C_in / groups, K_h, K_w) as Lava has it: (C_out, K_w, K_h, C_in / groups), both kernel axes flipped."""
    return synapse.weight.transpose(0, 3, 2, 1)[:, ::-1, ::-1]


def _dense_weights(synapse: Dense, input_shape: Shape) -> Array:
    """Columns from C, H, W order to Lava's W, H, C order."""
    by_axis = synapse.weight.reshape(-1, *input_shape)
    return by_axis.transpose(0, *range(len(input_shape), 0, -1)).reshape(synapse.weight.shape)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
