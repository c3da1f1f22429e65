"""A golden folder: a tiny network, images, and the expected results of every layer, for testing a backend.

::

    model.net      the network, of target loihi2
    golden.npz     images, uint8 (N, C, H, W); potentials of the last layer after each step, int32 (N, T, classes)
    golden.json    T; SHA-256 of model.net, and of every layer's spikes and potentials

A digest covers the bytes in N, T, C, H, W order: one byte (0 or 1) per spike, a little-endian int32 per potential
(after the reset of its step). `folder()` is the golden folder in the package, made by `tests/support/golden.py`.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

import loihi_convert
from loihi_convert import netx
from loihi_convert.backends.backend import Backend
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.result import LayerTrace, RunResult, first_difference
from loihi_convert.data.own_images import NPZ_ERRORS
from loihi_convert.errors import InputError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.files import asked, sha256, write_atomically
from loihi_convert.ir.quantized import QuantizedNetwork

NETWORK, ARRAYS, DIGESTS = "model.net", "golden.npz", "golden.json"


@dataclass(frozen=True, eq=False)
class Golden:
    """The contents of a golden folder.

    Parameters
    ----------
    path
        The folder.
    network
        Its network.
    images
        uint8 ``(N, C, H, W)``.
    timesteps
        T.
    potentials
        int32 ``(N, T, classes)``.
    digests
        For each layer, hexadecimal digests of its spikes (``None`` without neurons) and of its potentials.
    """

    path: Path
    network: QuantizedNetwork
    images: Array
    timesteps: int
    potentials: Array
    digests: tuple[tuple[str | None, str], ...]


@dataclass(frozen=True)
class GoldenLayer:
    """Whether a layer's ``spikes`` (``None`` if it has none) and ``potentials`` are as expected, with its ``name``."""

    name: str
    spikes: bool | None
    potentials: bool

    @property
    def passed(self) -> bool:
        return self.potentials and self.spikes is not False


@dataclass(frozen=True)
class GoldenCheck:
    """The verdict of each layer, and the first difference from `ref`: in words, and by layer, then image, then step.

    ``first`` gives the layer's name, ``spike`` or ``potential``, the image from 0, the step from 1, the neuron's index
    in C, H, W, and the integers. Both are ``None`` if nothing differs.
    """

    layers: tuple[GoldenLayer, ...]
    difference: str | None
    first: dict[str, Any] | None = None

    @property
    def passed(self) -> bool:
        return all(layer.passed for layer in self.layers)


def folder() -> Path:
    """Return the golden folder of this package."""
    return Path(__file__).parents[1] / "golden"


def read_golden(path: Path) -> Golden:
    """Return the golden folder at ``path``.

    Raises
    ------
    InputError
        If a file is missing or damaged, or does not match the digests.
    """
    try:
        told = json.loads((path / DIGESTS).read_bytes())
        # NumPy does not close a file that it fails to read, so it is closed here.
        with (path / ARRAYS).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            images, potentials = arrays["images"], arrays["potentials"]
        timesteps, expected = int(told["timesteps"]), str(told["model"])
        digests = tuple((layer["spikes"], str(layer["potentials"])) for layer in told["layers"])
    except (*NPZ_ERRORS, MemoryError, TypeError, AttributeError) as error:
        raise InputError(
            f"not a golden folder, or damaged ({str(error) or type(error).__name__})",
            where=path,
            expected=f"must hold {NETWORK}, {ARRAYS} and {DIGESTS}",
        ) from None
    network = netx.read(path / NETWORK)
    if sha256(path / NETWORK) != expected or len(digests) != len(network.layers):
        raise InputError(f"not the network that {DIGESTS} was made for", where=path / NETWORK)
    return Golden(path, network, images, timesteps, potentials, digests)


def check_golden(golden: Golden, backend: Backend) -> GoldenCheck:
    """Run the golden images on ``backend`` and compare every layer with the folder.

    With leaking neurons, for which the folder has no results, every layer is compared with `ref`.
    """
    neuron = backend.options.neuron_model(golden.network)
    reference = run_network(golden.network, golden.images, golden.timesteps, trace=True, neuron=neuron)
    digests, potentials = golden.digests, golden.potentials
    if neuron.leaks:
        digests, potentials = tuple(map(_digests, reference.traces)), reference.potentials
    result = backend.run(golden.network, golden.images, golden.timesteps, trace=True)
    layers = [
        GoldenLayer(layer.name, None if expected[0] is None else found[0] == expected[0], found[1] == expected[1])
        for layer, found, expected in zip(golden.network.layers, map(_digests, result.traces), digests, strict=True)
    ]
    last = layers[-1]
    is_equal = last.potentials and np.array_equal(result.potentials, potentials)
    layers[-1] = GoldenLayer(last.name, last.spikes, is_equal)
    names = [layer.name for layer in layers]
    return GoldenCheck(tuple(layers), first_difference(result, reference), _first(names, result, reference))


def _first(names: Sequence[str], result: RunResult, reference: RunResult) -> dict[str, Any] | None:
    for name, trace, known in zip(names, result.traces, reference.traces, strict=True):
        for kind, found, expected in (
            ("spike", trace.spikes, known.spikes),
            ("potential", trace.potentials, known.potentials),
        ):
            if found is None or expected is None or not len(places := np.argwhere(found != expected)):
                continue
            image, step, *neuron = (int(axis) for axis in places[0])
            at = (image, step, *neuron)
            integers = {"found": int(found[at]), "expected": int(expected[at])}
            return {"layer": name, "kind": kind, "image": image, "step": step + 1, "neuron": neuron, **integers}
    return None


def _digests(trace: LayerTrace) -> tuple[str | None, str]:
    spikes = None if trace.spikes is None else hashlib.sha256(trace.spikes.astype(np.uint8).tobytes()).hexdigest()
    return spikes, hashlib.sha256(trace.potentials.astype("<i4").tobytes()).hexdigest()


_FORMAT: Final = 1


def require_replaceable(path: Path) -> None:
    """Raise an `InputError` if ``path`` exists and is not a report, which a new one may replace."""
    if not asked(path, Path.exists):
        return
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "network_sha256" not in content:
        raise InputError("exists and is not a golden report; nothing was changed", where=path)


def write_report(path: Path, golden: Golden, backend: Backend, check: GoldenCheck | None, error: str = "") -> None:
    """Write the report of a comparison of ``backend`` with ``golden``, and replace an older one."""
    report = report_of(golden, backend, check, error)
    write_atomically(path, (json.dumps(report, indent=2) + "\n").encode())


def report_of(golden: Golden, backend: Backend, check: GoldenCheck | None, error: str = "") -> dict[str, Any]:
    """Return the report as JSON values; ``check`` is None if the run failed with ``error``."""
    return {
        "format": _FORMAT,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "passed": check is not None and check.passed,
        "error": error or None,
        "backend": backend.name,
        "board": None if backend.options.board is None else asdict(backend.options.board),
        "leak": backend.options.leak,
        "versions": {
            "loihi-convert": loihi_convert.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "platform": platform.platform(),
        },
        "backend_versions": backend.versions,
        "network_sha256": sha256(golden.path / NETWORK),
        "images": len(golden.images),
        "timesteps": golden.timesteps,
        "layers": [] if check is None else [vars(layer) for layer in check.layers],
        "first_difference": None if check is None else check.first,
    }


def where_to_send() -> str | None:
    """Return the address for board reports: "Issues" in this package's metadata; ``None`` if it is missing."""
    try:
        urls = metadata("loihi-convert").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    return next((url.split(", ")[1] for url in urls if url.startswith("Issues, ")), None)
