"""Damage files by the thousand and count what the readers make of it.

    python tests/robustness/damage.py [--share 0.1]

Printed is a table: kind of input, tried, clear errors, read as if nothing were, crashes, silent differences, and the
largest CPU time and memory of one file. The exit code is 0 if nothing crashed and nothing differed in silence.

Each file is read in a forked child of its own, so that a SIGSEGV of HDF5 counts and does not end the sweep.

==================  ================================================================================================
clear error         the reader's own exception, exit code 3, one sentence that names the path
unchanged           every field, and what the network computes, equal the original's: dates, padding and such differ
crash               any other exception, a signal, more than `SECONDS` of CPU time or `MEGABYTES` above an idle child
silent difference   read without an error, but a field or a result differs; or code of the file ran
==================  ================================================================================================

Netx files written by other tools have no digest. For them `inspect` and a run must end well or in a clear error, and
show no control characters; *unchanged* means that they ended well.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import nir
import numpy as np
import torch
from onnx import helper, numpy_helper
from PIL import Image
from rich.console import Console

from loihi_convert import external, netx
from loihi_convert.backends.reference import run_network
from loihi_convert.cli.sweep import read_grid
from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.models import build_model
from loihi_convert.data.image_files import stacked
from loihi_convert.data.own_images import load_npz
from loihi_convert.errors import CheckpointError, InputError, LoihiConvertError, NetxError
from loihi_convert.external.readers import CubaNetwork
from loihi_convert.external.simulation import simulate
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.network import IntegrateAndFire
from loihi_convert.ir.provenance import Provenance
from loihi_convert.ir.quantized import IntegerNeuron, QuantizedLayer, QuantizedNetwork
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.reading.source import open_source
from loihi_convert.report.contents import describe, summary, tables

# The slowest file takes a second; where two logical processors share a core, two.
SECONDS = 6
MEGABYTES = 500
_ADDRESS_SPACE = 4 << 30

Outcome = Literal["clear error", "unchanged", "crash", "silent difference"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Damage = Callable[[bytes, np.random.Generator], bytes]


@dataclass
class Row:
    """What came of one kind of input.

    Parameters
    ----------
    kind
        The format and what was done to it.
    counts
        How often each outcome came.
    seconds, megabytes
        The largest of one file, memory above an idle child's.
    failures
        For each crash and silent difference, which file it was and what was seen.
    """

    kind: str
    counts: Counter[Outcome] = field(default_factory=Counter)
    seconds: float = 0.0
    megabytes: float = 0.0
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Run the sweep and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description="Damage files and count what the readers make of it.")
    parser.add_argument("--share", type=float, default=1.0, help="part of the whole sweep; default: all of it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    print(f"{'kind of input':44} {'tried':>6} {'clear':>6} {'same':>6} {'crash':>6} {'silent':>6} {'s':>5} {'MB':>5}")
    for row in sweep(arguments.share, arguments.seed):
        rows.append(row)
        numbers = " ".join(f"{row.counts[outcome]:6}" for outcome in OUTCOMES)
        print(f"{row.kind:44} {row.counts.total():6} {numbers} {row.seconds:5.2f} {row.megabytes:5.0f}", flush=True)
        for failure in row.failures:
            print(f"    {failure}")
    return int(any(row.failures for row in rows))


def sweep(share: float, seed: int) -> Iterator[Row]:
    """Yield one row after the other: ``share`` of the random cases, every hostile file and every kind of forged one."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for suffix in (*checkpoint.SUFFIXES, netx.SUFFIX):
            reader = _Reader(folder, suffix)
            is_netx = suffix == netx.SUFFIX
            for name, (damage, count) in _damages(is_netx).items():
                rng = np.random.default_rng(seed)
                contents = ((name, damage(reader.original, rng)) for _ in range(max(1, round(share * count))))
                yield reader.row(f"{suffix}, {name}", contents)
            if is_netx:
                foreign = _ForeignReader(folder, suffix)
                for name, (damage, count) in _damages(False).items():
                    rng = np.random.default_rng(seed)
                    contents = ((name, damage(foreign.original, rng)) for _ in range(max(1, round(share * count))))
                    yield foreign.row(f"foreign netx, {name}", contents)
                yield foreign.row("foreign netx, hostile", _hostile_foreign(share, seed))
                yield reader.row(
                    f"{suffix}, random structure, digests right", _structures(reader.original, share, seed)
                )
            else:
                hostile = _hostile_pt if suffix == ".pt" else _hostile_safetensors
                yield reader.row(f"{suffix}, hostile", hostile(reader.original, folder / "victim"))
        for suffix in _OTHERS:
            other = _OtherReader(folder, suffix)
            for name, (damage, count) in _damages(False).items():
                rng = np.random.default_rng(seed)
                contents = ((name, damage(other.original, rng)) for _ in range(max(1, round(share * count))))
                yield other.row(f"{suffix}, {name}", contents)


def _damages(is_netx: bool) -> dict[str, tuple[Damage, int]]:
    """Name -> what is done to a file, and how often in the whole sweep."""
    damages: dict[str, Damage] = {
        "truncated": _truncated,
        "a bit flipped": _bit_flipped,
        "a byte changed": _byte_changed,
    }
    if not is_netx:
        return {name: (damage, 300) for name, damage in damages.items()}

    def bare(damage: Damage) -> Damage:
        # Without its seal, HDF5 gets to see the damage.
        return lambda content, rng: damage(content[512:], rng)

    return {
        **{name: (damage, 200) for name, damage in damages.items()},
        **{f"without seal, {name}": (bare(damage), 200) for name, damage in damages.items()},
    }


def _truncated(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def _bit_flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _byte_changed(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[rng.integers(len(content))] ^= int(rng.integers(1, 256))
    return bytes(changed)


class _Reader:
    """Reads damaged files of one format in children, beside the original."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._path, self._victim = folder / f"damaged{suffix}", folder / "victim"
        path = folder / f"original{suffix}"
        self._write(path)
        self.original = path.read_bytes()
        self._expected = self._result(path)
        assert self._child(path)[0] == "unchanged"
        self._idle = self._child(folder / "absent.net")[2]

    def _write(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path.suffix == netx.SUFFIX:
            netx.write(_network(), path)
        else:
            checkpoint.save(_checkpoint(), path)

    def row(self, kind: str, contents: Iterator[tuple[str, bytes]]) -> Row:
        """Read each of ``contents``, named by what was done to it."""
        row = Row(kind)
        for index, (name, content) in enumerate(contents):
            self._path.write_bytes(content)
            outcome, seen, memory, seconds = self._child(self._path)
            megabytes = (memory - self._idle) / 1024
            if megabytes > MEGABYTES:
                outcome, seen = "crash", f"{megabytes:.0f} MB"
            if self._victim.exists():
                self._victim.unlink()
                outcome, seen = "silent difference", "code in the file ran"
            row.counts[outcome] += 1
            row.seconds, row.megabytes = max(row.seconds, seconds), max(row.megabytes, megabytes)
            if outcome in ("crash", "silent difference"):
                row.failures.append(f"{outcome}: number {index}, {name}: {seen}")
        return row

    def _result(self, path: Path) -> dict[str, Any]:
        """Every field of a file, and what its network computes, as values that compare by ``==``."""
        rng = np.random.default_rng(0)
        if path.suffix == netx.SUFFIX:
            network = netx.read(path)
            images = rng.integers(0, 256, (2, *network.input_shape)).astype(np.uint8)
            fields = {
                name: (value.dtype.str, value.shape, value.tobytes()) for name, value in netx.native.encode(network)
            }
            return {**fields, "potentials": run_network(network, images, 4).potentials.tobytes()}
        model, read = checkpoint.load_model(path)
        inputs = torch.from_numpy(rng.random((2, *read.input_shape), np.float32))
        state = {name: (str(value.dtype), value.tolist()) for name, value in read.state.items()}
        return {
            **vars(read),
            "state": None,
            **state,
            "scores": model(inputs).tolist(),
        }

    def _child(self, path: Path) -> tuple[Outcome, str, int, float]:
        """Read ``path`` in a child: outcome, what was seen, its peak memory in KiB, its seconds of CPU time."""
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(receive)
            # Without a handler these signals end the process. CPU time, so that a busy machine does not count.
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE, used + _ADDRESS_SPACE))
            try:
                os.write(send, json.dumps(self._judge(path)).encode())
            finally:
                # Whatever happens, a child must not go on with the sweep.
                os._exit(0)
        os.close(send)
        with os.fdopen(receive, "rb") as pipe:
            written = pipe.read()
        _, status, usage = os.wait4(pid, 0)
        seconds = usage.ru_utime + usage.ru_stime
        if not written:
            return "crash", f"ended by signal {os.WTERMSIG(status)}", usage.ru_maxrss, seconds
        outcome, seen = json.loads(written)
        return outcome, seen, usage.ru_maxrss, seconds

    def _judge(self, path: Path) -> tuple[Outcome, str]:
        warnings.simplefilter("error")
        kind = NetxError if path.suffix == netx.SUFFIX else CheckpointError
        try:
            found = self._result(path)
        except InputError as error:
            sentence = str(error)
            is_clear = isinstance(error, kind) and str(path) in sentence and "\n" not in sentence
            return ("clear error" if is_clear and len(sentence) < 1000 else "crash"), repr(error)[:1000]
        except BaseException as error:
            return "crash", repr(error)[:1000]
        if found == self._expected:
            return "unchanged", ""
        changed = [name for name in found.keys() | self._expected if found.get(name) != self._expected.get(name)]
        return "silent difference", ", ".join(sorted(changed))[:1000]


class _ForeignReader(_Reader):
    """Reads netx files written by other tools: `inspect`, and a run where there is one."""

    def _write(self, path: Path) -> None:
        path.write_bytes(_hdf5(_foreign_datasets()))

    def _result(self, path: Path) -> dict[str, Any]:
        contents = describe(path)
        console = Console(width=200, file=io.StringIO(), force_terminal=False)
        with console.capture() as capture:
            console.print(*tables(contents))
        shown = summary(contents) + capture.get()
        if odd := {c for c in shown if not c.isprintable() and c != "\n"}:
            raise AssertionError(f"shows {odd!a}")
        network = external.read_external(path)
        assert isinstance(network, CubaNetwork)
        inputs = np.ones((1, *network.input_shape), np.int32)
        potentials = [layers[-1].v.tobytes() for layers in simulate(network, inputs, 2)]
        return {"shown": shown, "potentials": potentials}

    def _judge(self, path: Path) -> tuple[Outcome, str]:
        outcome, seen = super()._judge(path)
        return ("unchanged", "") if outcome == "silent difference" else (outcome, seen)


class _OtherReader(_Reader):
    """Reads files without a digest by the functions of `_OTHERS`."""

    def _write(self, path: Path) -> None:
        _OTHERS[path.suffix][0](path)

    def _result(self, path: Path) -> dict[str, Any]:
        _OTHERS[path.suffix][1](path)
        return {}

    def _judge(self, path: Path) -> tuple[Outcome, str]:
        try:
            self._result(path)
        except LoihiConvertError as error:
            return ("clear error" if error.exit_code in (2, 3) else "crash"), repr(error)[:1000]
        except BaseException as error:
            return "crash", repr(error)[:1000]
        return "unchanged", ""


def _write_onnx(path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["r"])]
    nodes += [helper.make_node("Flatten", ["r"], ["f"]), helper.make_node("Gemm", ["f", "v"], ["y"])]
    shapes = {"w": (2, 1, 3, 3), "v": (32, 3)}
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", (1, 1, 4, 4)), ("y", None))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(made.SerializeToString())


def _write_nir(path: Path) -> None:
    affine, shape = nir.Affine(np.ones((3, 16)), np.zeros(3)), np.array([1, 4, 4])
    ends = nir.Input({"input": shape}), nir.Output({"output": np.array([3])})
    flat = nir.Flatten({"input": shape}, start_dim=0)
    nir.write(path, nir.NIRGraph.from_list(ends[0], flat, affine, nir.IF(np.ones(3), np.ones(3)), ends[1]))


_OTHERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    ".onnx": (_write_onnx, open_source),
    ".nir": (_write_nir, open_source),
    ".png": (lambda path: Image.new("RGB", (9, 7)).save(path), lambda path: stacked([path], None)),
    ".jpg": (lambda path: Image.new("L", (9, 7)).save(path), lambda path: stacked([path], None)),
    ".npz": (lambda path: np.savez_compressed(path, images=np.zeros((3, 4, 4), np.uint8)), load_npz),
    ".toml": (
        lambda path: path.write_text('model = "original.onnx"\ntimesteps = [4, 8]\n'),
        lambda path: read_grid([path], {}),
    ),
}
"""Suffix -> how a small file is written, and how it is read."""


def _foreign_datasets() -> dict[str, Any]:
    """A small network as slayer writes it: input neurons, a convolution, a dense layer, a readout."""
    rng = np.random.default_rng(0)
    neuron = {"type": "CUBA", "iDecay": 1024, "vDecay": 128, "vThMant": 40, "refDelay": 1, "gradedSpike": False}
    layers: list[dict[str, Any]] = [
        {"type": "input", "shape": [2, 6, 6], "weight": np.float32(60), "bias": np.float32(9), "neuron": neuron},
        {"type": "conv", "shape": [4, 4, 4], "weight": 2.0 * rng.integers(-9, 9, (4, 2, 3, 3)), "neuron": neuron},
        {"type": "flatten", "shape": [1, 1, 64]},
        {"type": "dense", "shape": [5], "weight": 2.0 * rng.integers(-9, 9, (5, 64)), "neuron": neuron},
        {"type": "dense", "shape": [3], "weight": 2.0 * rng.integers(-9, 9, (3, 5))},
    ]
    layers[1] |= {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": np.arange(4.0)}
    found: dict[str, Any] = {"simulation/tSample": 16}
    for index, layer in enumerate(layers):
        for name, value in layer.items():
            inside = {f"/{key}": number for key, number in value.items()} if isinstance(value, dict) else {"": value}
            found |= {f"layer/{index}/{name}{key}": number for key, number in inside.items()}
    return found


def _hdf5(datasets: dict[str, Any], change: Callable[[h5py.File], object] | None = None) -> bytes:
    with h5py.File("foreign", "w", driver="core", backing_store=False) as file:
        for name, value in datasets.items():
            file.create_dataset(name, data=value)
        if change is not None:
            change(file)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _hostile_foreign(share: float, seed: int) -> Iterator[tuple[str, bytes]]:
    """What HDF5 can say and no netx file does, and, a share of them, numbers that make no sense, one in each file."""
    datasets = _foreign_datasets()

    def cycle(file: h5py.File) -> None:
        for index in range(5):
            file[f"layer/1/again{index}"] = file["layer"]

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(4,))
        file.create_virtual_dataset("layer/1/other", layout)

    texts = h5py.string_dtype()
    changes: dict[str, Callable[[h5py.File], object]] = {
        "soft link": lambda file: file.__setitem__("layer/1/x", h5py.SoftLink("/layer/0")),
        "dangling link": lambda file: file.__setitem__("layer/1/x", h5py.SoftLink("/nowhere")),
        "external link": lambda file: file.__setitem__("layer/1/x", h5py.ExternalLink("/etc/passwd", "/")),
        "hard link cycle": cycle,
        "virtual": virtual,
        "external storage": lambda file: file.create_dataset("layer/1/x", (8,), "u1", external=[("/etc/passwd", 0, 8)]),
        "terabytes": lambda file: file.create_dataset("layer/1/x", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024)),
        "zeros": lambda file: file.create_dataset("layer/1/x", data=np.zeros((1 << 14, 1 << 12)), compression="gzip"),
        "a million texts": lambda file: file.create_dataset("layer/1/x", (1 << 20,), texts),
        "a text of megabytes": lambda file: file.create_dataset("layer/1/x", data="a" * (1 << 24)),
        "text that is none": lambda file: file.create_dataset("layer/1/x", data=np.array(b"\xff\x1b[2J\x00a")),
        "names": lambda file: file.create_dataset("layer/1/\x1b]0;x\x07\u202e", data="\x1b[2J\r\n"),
        "compound": lambda file: file.create_dataset("layer/1/x", data=np.zeros(2, [("a", "i4"), ("b", "f8")])),
        "reference": lambda file: file.create_dataset("layer/1/x", data=file["layer"].ref, dtype=h5py.ref_dtype),
        "named type": lambda file: file.__setitem__("layer/1/x", np.dtype("f8")),
        "empty": lambda file: file.create_dataset("layer/1/x", data=h5py.Empty("f4")),
        "empty group": lambda file: file.create_group("layer/1/neuron/x"),
        "deep": lambda file: file.create_dataset("layer/1" + "/a" * 900, data=1),
        "many": lambda file: [file.create_group(f"layer/1/x/{index}") for index in range(20_000)],
        "layers": lambda file: [file.create_group(f"layer/{index}") for index in range(5, 3_000)],
        "complex": lambda file: file.create_dataset("layer/1/x", data=np.ones(3, np.complex64)),
        "layer is a dataset": lambda file: (file.__delitem__("layer"), file.create_dataset("layer", data=3)),
    }
    for name, change in changes.items():
        yield name, _hdf5(datasets, change)
    odd: tuple[Any, ...] = (
        *(np.nan, np.inf, -1, 0, 2**31, 2**63 - 1, 1e300, b"x", True, np.float16(0.5)),
        *(np.zeros((0, 3)), np.ones(3), np.ones((2, 2)), np.full((1, 4), 2**62), np.ones((1,) * 20)),
    )
    without = {f"{name} is missing": {k: v for k, v in datasets.items() if k != name} for name in datasets}
    instead = {f"{name} {str(value)[:20]}": {**datasets, name: value} for name in datasets for value in odd}
    cases = list((without | instead).items())
    for index in np.random.default_rng(seed).permutation(len(cases))[: max(1, round(share * len(cases)))]:
        yield cases[index][0], _hdf5(cases[index][1])


def _checkpoint() -> checkpoint.Checkpoint:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = dict(build_model("digits-cnn", (1, 8, 8), 10).state_dict())
    return checkpoint.Checkpoint(
        architecture="digits-cnn",
        state=state,
        data="digits",
        input_shape=(1, 8, 8),
        classes=tuple("0123456789"),
        seed=7,
        validation_accuracy=0.985,
        test_accuracy=0.97,
        recipe={"epochs": 3, "rate": 0.1, "history": [0.5, 0.75], "note": None},
    )


def _network() -> QuantizedNetwork:
    """A small network with everything a file can hold: every kind of bias, dilation, groups, pooling."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Array:
        return rng.integers(-127, 128, shape).astype(np.int32)

    def layer(name: str, synapse: Synapse, threshold: int, largest_input: int = 1) -> QuantizedLayer:
        ones = np.ones(synapse.channels)
        neuron = IntegerNeuron((threshold * ones).astype(np.int32), (threshold // 2 * ones).astype(np.int32))
        balanced = IntegrateAndFire(0.5 * ones, 0.5 * ones, 0.25 * ones)
        return QuantizedLayer(name, synapse, neuron, 0.5 / threshold * ones, largest_input, balanced)

    layers = (
        layer("conv1", Conv(weight(4, 2, 3, 3), weight(4, 6, 8), padding=(1, 2), dilation=(2, 2)), 50_000, 255),
        layer("conv2", Conv(weight(6, 2, 2, 3), weight(6), groups=2, pool=(2, 2)), 300),
        QuantizedLayer("fc", Dense(weight(3, 12), weight(3), pool=(2, 1)), None, np.full(3, 0.01)),
    )
    provenance = Provenance({"model": {"data": "digits"}, "seed": 0})
    return QuantizedNetwork((2, 8, 8), layers, 4, 64, 8, "soft", provenance)


def _structures(original: bytes, share: float, seed: int) -> Iterator[tuple[str, bytes]]:
    """Files whose digests are right and whose structure is not: what a forger, or another program, may write."""
    rng = np.random.default_rng(seed)
    datasets = dict(netx.hdf5.read_native_datasets(original))
    for index in range(max(len(_CHANGES), round(share * 400))):
        change = _CHANGES[index % len(_CHANGES)]
        changed = dict(datasets)
        with h5py.File("damaged", "w", driver="core", backing_store=False, userblock_size=512) as file:
            name = change(file, changed, rng)
            for key, value in changed.items():
                file.create_dataset(key, data=value)
            if change is not _without_digest:
                file.attrs["content_sha256"] = netx.hdf5.content_sha256(changed)
            file.flush()
            image = file.id.get_file_image()
        yield f"{change.__name__.strip('_')} {name}", netx.hdf5.seal(image) + image


Change = Callable[[h5py.File, "dict[str, Array]", np.random.Generator], str]


def _any(datasets: dict[str, Array], rng: np.random.Generator, kinds: str = "ifS") -> str:
    # Without its biases, or with another name, a file is another valid network, not a damaged one.
    names = sorted(name for name, value in datasets.items() if value.dtype.kind in kinds)
    return str(rng.choice([name for name in names if not name.endswith("bias")]))


def _missing(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng)
    del datasets[name]
    return name


def _missing_group(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    group = str(
        rng.choice(["layer/0", "layer/1", "layer/3", "layer/4", "loihi_convert/layer/1", "layer", "loihi_convert"])
    )
    for name in [name for name in datasets if name.startswith(f"{group}/")]:
        del datasets[name]
    return group


def _renamed(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng)
    datasets[f"{name}x"] = datasets.pop(name)
    return name


def _retyped(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng, "if")
    other = rng.choice([kind for kind in ("f8", "f4", "i8", "i2", "u4", ">i4") if datasets[name].dtype != kind])
    datasets[name] = datasets[name].astype(other)
    return f"{name} {other}"


def _as_number(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng, "S")
    datasets[name] = np.array(7, np.int32)
    return name


def _reshaped(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng)
    value = datasets[name]
    shapes = [value[None], value.reshape(-1)[: value.size // 2], value.reshape(-1)[:0]]
    datasets[name] = shapes[int(rng.integers(len(shapes)))]
    return f"{name} {datasets[name].shape}"


def _out_of_range(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = str(rng.choice(sorted(name for name, value in datasets.items() if value.dtype.kind in "if")))
    value = datasets[name]
    fill = np.iinfo(value.dtype).min if value.dtype.kind == "i" else rng.choice([np.nan, -1.0])
    datasets[name] = np.full_like(value, fill)
    return f"{name} {fill}"


def _zero(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    last = rng.choice(["shape", "stride", "dilation", "groups", "pool", "timesteps", "format", "pixel_bits", "scale"])
    name = str(rng.choice([name for name in sorted(datasets) if name.endswith(f"/{last}")]))
    datasets[name] = 0 * datasets[name]
    return name


def _large(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    last = rng.choice(["shape", "stride", "padding", "dilation", "groups", "pool", "timesteps", "format", "pixel_bits"])
    name = str(rng.choice([name for name in sorted(datasets) if name.endswith(f"/{last}")]))
    datasets[name] = np.full_like(datasets[name], rng.choice([1000, 2**30, 2**31 - 1]))
    return f"{name} {datasets[name].tolist()}"


def _wrong_text(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng, "S")
    texts = [b"\xff\xfe", b"{" * 100_000, b"[" * 100_000 + b"]" * 100_000]
    if not name.endswith("name"):
        texts += [b"none", b"[]", b'{"model": 3}', b"convT"]
    datasets[name] = np.array(texts[int(rng.integers(len(texts)))])
    return f"{name} {datasets[name].tolist()[:20]}"


def _without_digest(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        file.attrs["content_sha256"] = str(rng.choice(["", "0" * 64]))
    return ""


def _additional(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = str(rng.choice(["layer/5/type", "layer/1/delay", "layer/x/y", "other", "loihi_convert/layer/9/name"]))
    datasets[name] = np.array(b"dense")
    return name


def _empty_group(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = str(rng.choice(["layer/5", "layer/1/gradedSpike", "other"]))
    file.create_group(name)
    return name


def _deep(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    datasets["layer/1" + "/a" * 2000] = np.array(1)
    return ""


def _huge(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    """Claims terabytes, or compresses hundreds of megabytes of zeros into nothing."""
    name = _any(datasets, rng, "i")
    dtype = datasets.pop(name).dtype
    if rng.random() < 0.7:
        file.create_dataset(name, shape=(1 << 20, 1 << 20), dtype=dtype, chunks=(1 << 10, 1 << 10))
    else:
        file.create_dataset(name, data=np.zeros((1 << 14, 1 << 12), np.int8), compression="gzip")
    return name


def _soft_link(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng)
    file["elsewhere"] = datasets.pop(name)
    file[name] = h5py.SoftLink(str(rng.choice(["/elsewhere", "/absent", f"/{name}"])))
    return name


def _external_link(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng)
    del datasets[name]
    file[name] = h5py.ExternalLink("original.net", f"/{name}")
    return name


def _hard_link(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    """A group inside itself, or one dataset under two names."""
    if rng.random() < 0.5:
        name = str(rng.choice(["layer/1/again", "layer/again", "again"]))
        file.create_group("layer/1")
        file[name] = file[str(rng.choice(["/", "layer", "layer/1"]))]
        return name
    name, other = _any(datasets, rng), _any(datasets, rng)
    file[name] = datasets.pop(name)
    if other in datasets:
        del datasets[other]
        file[other] = file[name]
    return f"{name} {other}"


def _virtual(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng, "i")
    value = datasets.pop(name)
    layout = h5py.VirtualLayout(value.shape or (1,), value.dtype)
    layout[...] = h5py.VirtualSource("original.net", name, value.shape or (1,))
    file.create_virtual_dataset(name, layout)
    return name


def _in_another_file(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    name = _any(datasets, rng, "i")
    value = datasets.pop(name)
    file.create_dataset(name, value.shape or (1,), value.dtype, external=[("original.net", 0, h5py.h5f.UNLIMITED)])
    return name


def _odd_type(file: h5py.File, datasets: dict[str, Array], rng: np.random.Generator) -> str:
    """Text of varying length, references, compounds, a bare type."""
    name = _any(datasets, rng)
    value = datasets.pop(name)
    match int(rng.integers(4)):
        case 0:
            file.create_dataset(name, data="text", dtype=h5py.string_dtype())
        case 1:
            file.create_dataset(name, data=file.ref, dtype=h5py.ref_dtype)
        case 2:
            file.create_dataset(name, data=np.zeros(max(1, value.size), [("a", "i4"), ("b", "f8")]))
        case _:
            file[name] = np.dtype("i4")
    return name


_CHANGES: tuple[Change, ...] = (
    *(_missing, _missing_group, _renamed, _retyped, _as_number, _reshaped, _out_of_range, _zero, _large, _wrong_text),
    *(_without_digest, _additional, _empty_group, _deep, _huge, _soft_link, _external_link, _hard_link, _virtual),
    *(_in_another_file, _odd_type),
)


class _Attack:
    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self._victim}'",)


def _saved(value: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def _hostile_pt(original: bytes, victim: Path) -> Iterator[tuple[str, bytes]]:
    """Files that attack a reader of torch's format; CRCs are right."""
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    top = next(iter(records)).partition("/")[0]
    program = records[f"{top}/data.pkl"]

    def with_records(changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
        stream = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", compression) as archive:
            warnings.simplefilter("ignore")
            for name, content in {**records, **changes}.items():
                archive.writestr(name, content)
        return stream.getvalue()

    def with_program(code: bytes) -> bytes:
        return with_records({f"{top}/data.pkl": code})

    yield "os.system in __reduce__", _saved({"format": _Attack(victim)})
    yield "os.system in the state", _saved({"state": {"conv1.weight": _Attack(victim)}})
    for protocol in (0, 1, 3, 4, 5):
        yield f"os.system in protocol {protocol}", with_program(pickle.dumps(_Attack(victim), protocol=protocol))
    touch = f"open({str(victim)!r}, 'w')".encode()
    text = b"X" + len(touch).to_bytes(4, "little") + touch
    yield "eval", with_program(b"\x80\x02c__builtin__\neval\n" + text + b"\x85R.")
    yield "a nested global", with_program(b"\x80\x04\x8c\x05torch\x8c\x0eos.system.call\x93.")
    yield "a dotted global", with_program(b"\x80\x02ctorch\nserialization.os.system\n(X\x01\x00\x00\x00atR.")
    yield "torch.load inside", with_program(b"\x80\x02ctorch\nload\n(X\x01\x00\x00\x00atR.")
    yield "INST", with_program(b"(i__builtin__\neval\n.")
    yield "BUILD that sets a class", with_program(b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    yield "TorchScript", stream.getvalue()
    yield "TorchScript beside a state dict", with_records({f"{top}/code/x.py": b"import os"})
    yield "the format before torch 1.6", _saved({"a": torch.zeros(1)}, _use_new_zipfile_serialization=False)
    yield "a pickled module", _saved(torch.nn.Linear(2, 2))
    yield "a zip bomb", with_records({f"{top}/data/bomb": bytes(1 << 26)}, zipfile.ZIP_DEFLATED)
    yield "a bomb for a storage", with_records({f"{top}/data/0": bytes(1 << 26)}, zipfile.ZIP_BZIP2)
    yield "overlapping records", _overlapping(original)
    huge = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")
    yield "a huge numel", with_program(program.replace(b"M\x80\x04", b"J\xff\xff\xff\x7f").replace(b"K\x90", huge))
    yield "a storage too short", with_records({f"{top}/data/0": records[f"{top}/data/0"][:-4]})
    yield "a storage missing", with_records({f"{top}/data/9": b""}).replace(b"/data/0", b"/data/7")
    yield "a path out of the folder", with_records({f"{top}/../../victim": b"x", "/tmp/victim": b"x"})
    yield "a path as storage key", with_program(program.replace(b"X\x01\x00\x00\x000", b"X\x09\x00\x00\x00../../etc"))
    stream = io.BytesIO(original)
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(f"{top}/data.pkl", pickle.dumps({"format": "another"}, protocol=2))
    yield "duplicate names", stream.getvalue()
    yield "50,000 records", with_records({f"{top}/{index}": b"" for index in range(50_000)})
    yield "deep nesting", with_program(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    yield "deep tuples", with_program(b"\x80\x02)" + b"\x85" * 500_000 + b".")
    yield "a list in itself", with_program(b"\x80\x02]q\x00h\x00a.")
    yield "a memo bomb", with_program(b"\x80\x02}r\xff\xff\xff\xff.")
    doubling = b"".join(b"](" + b"h" + bytes([n]) + (b"h" + bytes([n])) * 9 + b"eq" + bytes([n + 1]) for n in range(14))
    yield "a value that doubles at every level", with_program(b"\x80\x02]q\x00" + doubling + b".")
    yield "a text longer than the file", with_program(b"\x80\x02X\xff\xff\xff\x7fa.")
    yield "a number of 250 bytes", with_program(b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".")
    yield "a pickle of 8 MB", with_program(b"\x80\x02" + b"N0" * (4 << 20) + b"N.")
    yield "nothing", b""
    yield "a zip without records", b"PK\x05\x06" + bytes(18)


def _overlapping(original: bytes) -> bytes:
    """Every record of the directory starts where the first does: much is read out of few bytes."""
    changed = bytearray(original)
    start = changed.index(b"PK\x01\x02")
    while (start := changed.find(b"PK\x01\x02", start)) >= 0:
        changed[start + 42 : start + 46] = bytes(4)
        start += 4
    return bytes(changed)


def _hostile_safetensors(original: bytes, victim: Path) -> Iterator[tuple[str, bytes]]:
    """Files that attack a reader of safetensors."""
    length = int.from_bytes(original[:8], "little")
    header, body = json.loads(original[8 : 8 + length]), original[8 + length :]
    name = next(key for key in header if key != "__metadata__")

    def with_header(text: bytes, tail: bytes = body) -> bytes:
        return len(text).to_bytes(8, "little") + text + tail

    def with_tensor(**changes: object) -> bytes:
        return with_header(json.dumps({**header, name: {**header[name], **changes}}).encode())

    for claimed in (1 << 63, (1 << 64) - 1, 1 << 40, len(original), 0, 1):
        yield f"a header of {claimed} bytes", claimed.to_bytes(8, "little") + original[8:]
    yield "a header of 32 MB", with_header(b" " * (32 << 20))
    yield (
        "a header of 100,000 tensors",
        with_header(
            json.dumps(
                {f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
            ).encode(),
            b"",
        ),
    )
    yield "deep nesting", with_header(b'{"a":' * 100_000)
    yield "a header that is a list", with_header(b"[]")
    yield "no metadata", with_header(json.dumps({key: header[key] for key in header if key != "__metadata__"}).encode())
    for text in ("null", "[]", "{", "{}", "[" * 100_000, '{"format": 1}', "1" * 10_000):
        metadata = {**header["__metadata__"], "loihi_convert": text}
        yield f"metadata {text[:15]}", with_header(json.dumps({**header, "__metadata__": metadata}).encode())
    yield "metadata that is a list", with_header(json.dumps({**header, "__metadata__": []}).encode())
    begin, end = header[name]["data_offsets"]
    for offsets in (
        [0, end - begin],
        [end, begin],
        [-1, end],
        [begin, 1 << 62],
        [begin, end + 4],
        [begin + 1, end + 1],
    ):
        yield f"offsets {offsets}", with_tensor(data_offsets=offsets)
    for dtype in ("F64", "F16", "I8", "F8_E4M3", "F4", "BOOL", "NONE", "I32"):
        yield f"dtype {dtype}", with_tensor(dtype=dtype)
    for shape in ([], [0], [1 << 62, 4], [-1], [end - begin], [1] * 1000):
        yield f"shape {shape[:4]}", with_tensor(shape=shape)
    yield "a duplicate key", with_header(json.dumps(header)[:-1].encode() + b"," + json.dumps(header)[1:].encode())
    yield "a tail", original + b"tail"
    yield "a pickle", pickle.dumps(_Attack(victim), protocol=2)
    yield "nothing", b""


if __name__ == "__main__":
    sys.exit(main())
