"""Networks as NIR files: what a reader of the file must know, and a netx file written again as NIR."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from loihi_convert import netx, nir
from loihi_convert.conversion.quantization_report import QuantizationReport
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import FileFormat
from loihi_convert.ground.dependencies import optional_module
from loihi_convert.ground.file_kinds import NIR
from loihi_convert.ground.files import require_output
from loihi_convert.ir.network import layer_words
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.simulation.layer_spec import Recording
from loihi_convert.simulation.simulator import Block, Simulator

_LOOP: Final = (
    "NIR has no soft reset, so each layer of neurons is a loop I -> Threshold -> Scale(-threshold) -> I. Readers "
    "without these nodes refuse the file. For readers that know only IF, convert with `reset='hard'`."
)
_DROPPED: Final = (
    "`allow_hard_reset`: NIR's IF neurons start at 0 and reset to 0, so this file is another network, without the soft "
    "reset and the initial potentials that its thresholds were balanced for. `reset='hard'` balances for IF neurons."
)


class NirFile(NamedTuple):
    """A NIR file made from a netx file: its path, its network, and notes for the user."""

    path: Path
    network: QuantizedNetwork
    notes: tuple[str, ...]


# Suffixes that a netx file must not have: `run` would take it for a CNN.
_OTHERS: Final = (".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".npz")


def require_file_format(file_format: FileFormat, allow_hard_reset: bool, output: Path | None) -> None:
    """Raise an error if the format does not fit the options or the output's suffix; called before any work.

    Raises
    ------
    UsageError
        If the suffix of ``output`` is that of another format, or ``allow_hard_reset`` is given for a netx file.
    PlatformError
        If a NIR file is asked for and the package ``nir`` is not installed.
    """
    is_nir = file_format == "nir"
    if output is not None and is_nir != (output.suffix.lower() == NIR):
        raise UsageError(
            f"found {output.name}",
            where="output",
            expected=f"must end in {NIR} with `file_format='nir'`" if is_nir else f"must not end in {NIR}",
            hint="" if is_nir else "For a NIR file, pass `file_format='nir'`.",
        )
    if output is not None and not is_nir:
        require_netx_name(output, "output")
    if allow_hard_reset and not is_nir:
        raise UsageError(
            "given for a netx file",
            where="allow_hard_reset",
            expected="must come with `file_format='nir'`",
            hint="For netx files, `reset='hard'` balances the thresholds for hard reset.",
        )
    if is_nir:
        optional_module("nir", "`file_format='nir'` writes NIR files")


def require_netx_name(output: Path, where: str) -> None:
    """Raise a `UsageError` if ``output``, a netx file to be written, has the suffix of a CNN or of a NIR file.

    ``where`` is the parameter that names it.
    """
    if output.suffix.lower() in (NIR, *_OTHERS):
        kind, name = "CNN", output.with_suffix(netx.SUFFIX).name
        then = ""
        if output.suffix.lower() == NIR:
            kind, then = "NIR file", f", then run `loihi-convert export {name} --format nir`"
        raise UsageError(
            f"found {output.name}, the name of a {kind}",
            where=where,
            expected=f"must end in {netx.SUFFIX}, or in none",
            hint=f"Save {name}{then}.",
        )


def nir_notes(
    network: QuantizedNetwork,
    allow_hard_reset: bool,
    report: QuantizationReport | None = None,
    images: Array | None = None,
    device: str = "cpu",
) -> tuple[str, ...]:
    """Return what a reader of the NIR file of ``network`` must know, one sentence each.

    Parameters
    ----------
    network, allow_hard_reset
        As in `exporting.export`.
    report
        The layers whose potentials clip on calibration images; None if unknown.
    images
        Calibration images on which to try whether spikes differ without clipping, uint8 ``(N, C, H, W)``.
    device
        Where to simulate.
    """
    if network.reset == "soft" and allow_hard_reset:
        return (_DROPPED,)
    notes = (_LOOP,) if network.reset == "soft" else ()
    if report is None or images is None or report.target != "lava":
        return notes
    clipped = [layer_words(layer.name) for layer in report.layers if layer.harmful_clips]
    if not clipped:
        return notes
    differ = changed_by_clipping(network, images, device)
    where = f"potentials of {', '.join(clipped)} clip at +-131071 on Loihi and not in NIR"
    result = f"spikes differ on {differ} of" if differ else "no spike differs on"
    return (*notes, f"{where}: {result} {len(images)} calibration images.")


def changed_by_clipping(network: QuantizedNetwork, images: Array, device: str = "cpu") -> int:
    """Return the number of ``images`` on which spike counts or output potentials differ if no potential clips.

    Compares the number of spikes of each layer in each step.
    """
    layers = len(network.spiking_layers)

    def run(saturates: bool) -> list[Array]:
        moments = (len(images), network.timesteps)
        counts = [np.zeros(moments, np.int64) for _ in range(layers)]
        outputs = np.zeros((*moments, *network.shapes[-1]))

        def take(block: Block) -> None:
            for found, layer in zip(counts, block.layers, strict=False):
                found[block.images, block.steps] = layer.spike_counts
            last = block.layers[-1].potentials
            outputs[block.images, block.steps] = last.reshape(*last.shape[:2], -1)

        neuron = NeuronModel(network.reset)
        simulator = Simulator(network, Recording(counts=True), device=device, saturates=saturates, neuron=neuron)
        simulator.run(images, network.timesteps, take)
        return [*counts, *([outputs] if network.readout == "potential" else [])]

    differs = [
        (clipped != free).reshape(len(images), -1).any(axis=1)
        for clipped, free in zip(run(True), run(False), strict=True)
    ]
    return int(np.any(differs, axis=0).sum())


def rewritten_as_nir(
    path: Path, output: Path | None, *, allow_hard_reset: bool = False, overwrite: bool = False, verify: bool = True
) -> NirFile:
    """Write the network of the netx file at ``path`` as a NIR file, by default next to it.

    Raises
    ------
    UsageError, PlatformError
        As in `require_file_format`, or if the output is the input.
    InputError
        If ``path`` cannot be read, or the output exists or cannot be written.
    UnsupportedModelError
        If a layer cannot be expressed.
    VerificationError
        If the file read back differs.
    """
    require_file_format("nir", allow_hard_reset, output)
    written = path.with_suffix(NIR) if output is None else output
    require_output(written, overwrite, path)
    network = netx.read(path)
    nir.write(network, written, hard_reset=allow_hard_reset, overwrite=overwrite, verify=verify)
    return NirFile(written, network, nir_notes(network, allow_hard_reset))
