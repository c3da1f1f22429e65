"""Which libraries reproduce the spikes of our NIR files: python tools/peers/nir_readers.py [-o docs/results/nir.csv].

Exports one CNN with soft and with hard reset, writes NIR files in every form, and runs each in the importer of every
library, in a separate process and environment (made by uv). Spikes of all layers at all steps are compared with `ref`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert import netx
from loihi_convert.__main__ import exit_code
from loihi_convert.backends.reference import run_network
from loihi_convert.cli.console import log
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions
from loihi_convert.data import default_root, load_data
from loihi_convert.errors import PlatformError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import Granularity, InitialPotential, Reset
from loihi_convert.ground.files import write_atomically
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.nir import writer as nir
from loihi_convert.pipeline import exporting
from loihi_convert.runs.columns import as_csv

_HERE: Final = Path(__file__).resolve().parent
_CNN: Final = _HERE.parents[1] / "netx_models" / "mnist" / "cnn.safetensors"
_TORCH: Final = "torch==2.13.0"
_NIR: Final = "nir==1.0.8"
_NIRTORCH: Final = "nirtorch==2.6"


@dataclass(frozen=True)
class Reader:
    """A library that reads NIR files, by its function in `nir_reader_process`; ``newer`` replaces what it asks for."""

    name: str
    module: str
    requirements: tuple[str, ...]
    newer: tuple[str, ...] = ()


READERS: Final = (
    Reader("snnTorch", "snntorch", ("snntorch==1.0.0", _NIR, _NIRTORCH)),
    Reader("sinabs", "sinabs", ("sinabs==3.1.3", "nir==1.0.4", "nirtorch==2.0.2")),
    Reader("sinabs with nir 1.0.8", "sinabs", ("sinabs==3.1.3", "nir==1.0.4", "nirtorch==2.0.2"), (_NIR, _NIRTORCH)),
    Reader("norse", "norse", ("norse==1.1.0", _NIR, _NIRTORCH)),
    Reader("SpikingJelly", "spikingjelly", ("spikingjelly==2.0.0", _NIR, _NIRTORCH)),
    Reader("nirtorch and four modules", "nirtorch", (_NIR, _NIRTORCH)),
)


@dataclass(frozen=True, eq=False)
class File:
    """A NIR file, and the network that it was made from."""

    name: str
    path: Path
    network: QuantizedNetwork
    is_if: bool


@dataclass(frozen=True)
class Row:
    """One file in one library; counts are over all images, layers and steps.

    ``spikes`` are those of `ref`, ``reader_spikes`` the sum of the outputs of the library's neurons; ``different``
    are neurons and steps, ``equal_images`` those without one; ``largest_error`` and ``same_class``, after the last
    step. ``stage`` (import or run) and ``failure`` name the exception that ended it.
    """

    file: str
    reader: str
    versions: str
    images: int
    timesteps: int
    spikes: int
    stage: str = ""
    failure: str = ""
    reader_spikes: float | None = None
    different: int | None = None
    equal_images: int | None = None
    largest_error: float | None = None
    same_class: int | None = None


def files(folder: Path, timesteps: int, calibration: Array) -> Iterator[File]:
    """Write the network in every form: the loop and IF, soft and hard reset, thresholds per channel and per layer."""

    def network(reset: Reset, thresholds: Granularity, initial: InitialPotential | None = None) -> QuantizedNetwork:
        path = folder / f"{reset}-{thresholds}-{initial}.net"
        balance = BalanceOptions(reset=reset, initial_potential=initial)
        quantize = QuantizeOptions(thresholds=thresholds)
        exporting.export(_CNN, path, (timesteps,), calibration, ConversionOptions(balance, quantize))
        return netx.read(path)

    def file(name: str, network: QuantizedNetwork, *, hard_reset: bool = False) -> File:
        path = folder / f"{''.join(filter(str.isalnum, name))}.nir"
        nir.write(network, path, hard_reset=hard_reset)
        return File(name, path, network, hard_reset or network.reset == "hard")

    soft = network("soft", "channel")
    yield file("soft reset, loop", soft)
    yield file("soft reset as IF", soft, hard_reset=True)
    yield file("the same, from V = 0", network("soft", "channel", "zero"), hard_reset=True)
    yield file("the same, a threshold per layer", network("soft", "scalar", "zero"), hard_reset=True)
    yield file("hard reset", network("hard", "channel"))
    yield file("hard reset, a threshold per layer", network("hard", "scalar"))


def measured(reader: Reader, made: Sequence[File], images: Array, timesteps: int, folder: Path) -> Iterator[Row]:
    """Run all files in one library, and compare."""
    answer = answered(reader, [file.path for file in made], folder)
    versions = " ".join(f"{name}={version}" for name, version in answer["versions"].items())
    for file, result in zip(made, answer["files"], strict=True):
        expected = run_network(file.network, images, timesteps, trace=True)
        spiking = [trace.spikes for trace in expected.traces if trace.spikes is not None]
        count = sum(int(spikes.sum()) for spikes in spiking)
        row = Row(file.name, reader.name, versions, len(images), timesteps, count)
        if "failure" in result:
            yield replace(row, stage=result["stage"], failure=result["failure"])
            continue
        found = np.load(file.path.with_suffix(f".{reader.module}.npz"))
        layers = [found[f"spikes{index}"] for index in range(len(spiking))]
        differs = [mine != theirs for mine, theirs in zip(spiking, layers, strict=True)]
        potentials = found["outputs"].sum(axis=1, dtype=np.float64)
        wanted = expected.outputs[:, -1]
        per_image = np.sum([each.reshape(len(images), -1).sum(axis=1) for each in differs], axis=0)
        yield replace(
            row,
            reader_spikes=float(sum(layer.sum(dtype=np.float64) for layer in layers)),
            different=int(per_image.sum()),
            equal_images=int((per_image == 0).sum()),
            same_class=int((potentials.argmax(axis=1) == wanted.argmax(axis=1)).sum()),
            largest_error=float(np.abs(potentials - wanted).max()),
        )


def answered(reader: Reader, paths: Sequence[Path], folder: Path) -> Mapping[str, Any]:
    """Run the library's process and return its answer."""
    uv = os.environ.get("UV") or shutil.which("uv")
    command = [uv] if uv else [sys.executable, "-m", "uv"]
    # uv ignores pip's find-links; the wheels there are small ones for the CPU.
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
    environment = {**os.environ, "UV_FIND_LINKS": links, "PYTHONPATH": ""}
    if reader.newer:
        place = ["--target", str(folder / "newer"), "--python", sys.executable]
        subprocess.run([*command, "pip", "install", "-q", "--no-deps", *place, *reader.newer], check=True)
        environment["PYTHONPATH"] = str(folder / "newer")
    wanted = [word for requirement in (*reader.requirements, _TORCH, "h5py") for word in ("--with", requirement)]
    run = [*command, "run", "--quiet", "--no-project", "--python", sys.executable, *wanted, "python"]
    script = [str(_HERE / "nir_reader_process.py"), reader.module, *map(str, paths)]
    done = subprocess.run([*run, *script], env=environment, cwd=folder, capture_output=True, text=True)
    if not done.stdout.strip():
        raise PlatformError(f"ended with {done.returncode}: {done.stderr[-400:]}", where=reader.name)
    answer: Mapping[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100, help="test images; default: %(default)s")
    parser.add_argument("-T", "--timesteps", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--calibration", type=int, default=1000, help="images; default: %(default)s")
    parser.add_argument("--data-root", type=Path, default=default_root(), help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the rows as .csv")
    options = parser.parse_args()
    splits = load_data("mnist", options.data_root)
    images = splits.test.images[: options.images]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = list(files(folder, options.timesteps, splits.calibration_images()[: options.calibration]))
        for file in made:
            nodes = nir.to_graph(file.network, hard_reset=file.is_if).nodes
            # The nodes that have a layer's spikes as outputs.
            spiking = [name for name in nodes if name.endswith(("_spikes", "_neurons"))]
            inputs = {"images": file.network.pixels(images).astype(np.float32), "timesteps": options.timesteps}
            np.savez(file.path.with_suffix(".npz"), **inputs, names=spiking)
        for reader in READERS:
            for row in measured(reader, made, images, options.timesteps, folder):
                rows.append(row)
                found = row.failure or f"{row.different} of {row.spikes} spikes differ, {row.same_class} same class"
                log(f"{reader.name}; {row.file}: {found}")
    if options.output is not None:
        write_atomically(options.output, as_csv(map(asdict, rows)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
