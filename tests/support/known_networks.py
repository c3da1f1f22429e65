"""Every CNN that tests convert still becomes the same `ReluNetwork`, or is refused at the same place.

A plugin of pytest: it sees each conversion, and compares it with that of the same test in ``golden/networks.json.gz``,
which ``pytest --record-networks`` writes; a test file that is run then replaces its records. What has no record is not
compared, as random examples, nor is anything under another torch, whose random weights and names differ.

A record tells of a network, layer by layer, its name, shapes and geometry, then sums of its numbers. Sums are compared
only if those of the model's own weights are as recorded: another processor trains other weights.
"""

from __future__ import annotations

import functools
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pytest
import torch
from torch import nn

from loihi_convert import lowering
from loihi_convert.errors import LoihiConvertError
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.network import ReluLayer, ReluNetwork
from loihi_convert.ir.synapse import Conv
from loihi_convert.lowering import chain

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "networks.json.gz"
TORCH: Final = torch.__version__.partition("+")[0].rpartition(".")[0]
_SAME_WEIGHTS: Final = 1e-7
_SAME_RESULT: Final = 1e-6

Record: TypeAlias = dict[str, Any]
"""``refused``: class and place; or ``names``, ``layers``, ``weights`` and ``sums``, see `of_network`."""


def of_network(network: ReluNetwork, model: nn.Module) -> Record:
    """Return the record of a network."""
    arrays = [
        array
        for layer in network.layers
        for array in (layer.synapse.weight, layer.synapse.bias, layer.threshold, layer.ceiling)
        if array is not None
    ]
    nonzero = sum(int(np.count_nonzero(array)) for array in arrays)
    state = (tensor.detach().cpu().double().numpy() for tensor in model.state_dict().values())
    ending = f"{network.task} {network.ending} {network.input_shape}"
    return {
        "names": [layer.name for layer in network.layers],
        "layers": [*map(_described, network.layers), ending],
        "weights": _sums(state),
        "sums": [*_sums(arrays), nonzero, network.multiply_accumulates or 0],
    }


def _described(layer: ReluLayer) -> str:
    synapse, ceiling, threshold = layer.synapse, layer.ceiling, layer.threshold
    words = [f"{synapse.weight.shape} {synapse.bias is not None and synapse.bias.shape} {synapse.pool}"]
    if isinstance(synapse, Conv):
        words.append(f"{synapse.stride} {synapse.padding} {synapse.dilation} {synapse.groups}")
    masks = (
        ("relays", layer.relay_of),
        ("clipped", None if ceiling is None else np.isfinite(ceiling)),
        (f"L = {layer.levels}", None if threshold is None else np.isfinite(threshold)),
    )
    words += [f"{name} {zlib.crc32(mask.tobytes()):08x}" for name, mask in masks if mask is not None]
    return " ".join(words)


def _sums(arrays: Iterable[Array]) -> list[float]:
    """The root of the sum of squares, and a sum that depends on the order of the finite numbers."""
    squares = mixed = 0.0
    for index, array in enumerate(arrays):
        values = np.where(np.isfinite(array), array, 0).astype(np.float64).ravel()
        squares += float(values @ values)
        mixed += float(values @ np.cos(np.arange(values.size) % 65521 + index))
    return [float(f"{squares**0.5:.9g}"), float(f"{mixed:.9g}")]


def difference(stored: Record, found: Record) -> str:
    """Return how two records differ; empty if they do not."""
    if "refused" in stored or "refused" in found:
        texts = [f"refused: {', '.join(each['refused'])}" if "refused" in each else "read" for each in (stored, found)]
        return "" if texts[0] == texts[1] else f"was {texts[0]}; is {texts[1]}"
    for part in ("layers", "names"):
        if stored[part] != found[part]:
            return f"{part} were\n  " + "\n  ".join(stored[part]) + "\nand are\n  " + "\n  ".join(found[part])
    if not _are_near(stored["weights"], found["weights"], _SAME_WEIGHTS):
        return ""
    if stored["sums"][2:] != found["sums"][2:]:
        return f"nonzero numbers and multiplications were {stored['sums'][2:]}, are {found['sums'][2:]}"
    if not _are_near(stored["sums"][:2], found["sums"][:2], _SAME_RESULT):
        return f"sums of all numbers were {stored['sums'][:2]}, are {found['sums'][:2]}"
    return ""


def _are_near(stored: list[float], found: list[float], tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance * stored[0] for a, b in zip(stored, found, strict=True))


def read() -> dict[str, list[Record]]:
    """Return the stored records of each test and fixture; empty under another torch."""
    if not GOLDEN.exists():
        return {}
    content = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    records: dict[str, list[Record]] = content["records"]
    return records if content["torch"] == TORCH else {}


def write(records: dict[str, list[Record]]) -> None:
    """Replace the stored records of the test files that ``records`` has."""
    files = {name.partition("::")[0] for name in records}
    kept = {name: record for name, record in read().items() if name.partition("::")[0] not in files}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in sorted({**kept, **records}.items()))
    text = f'{{"torch": "{TORCH}", "records": {{\n{lines}\n}}}}\n'
    GOLDEN.write_bytes(gzip.compress(text.encode(), mtime=0))


class KnownNetworks:
    """The plugin, which replaces `lowered`, the one way from a module to a network, by one that tells of each call."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_recording = config.getoption("--record-networks")
        self._known = {} if self._is_recording else read()
        self._found: dict[str, list[Record]] = {}
        self._places: list[str] = []
        self._differences: list[str] = []
        lowering.lowered = chain.lowered = self._watched(chain.lowered)

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def lowered(model: Any, *args: Any, **options: Any) -> Any:
            try:
                chain = original(model, *args, **options)
            except LoihiConvertError as error:
                self._compare({"refused": [type(error).__name__, error.where]})
                raise
            if self._is_recording or self._place in self._known:
                self._compare(of_network(chain.network, model))
            return chain

        return lowered

    @property
    def _place(self) -> str:
        """The test or fixture that runs; empty for one of random examples."""
        return self._places[-1] if self._places else ""

    def _compare(self, found: Record) -> None:
        records, stored = self._found.setdefault(self._place, []), self._known.get(self._place, [])
        records.append(found)
        if len(records) <= len(stored) and (text := difference(stored[len(records) - 1], found)):
            self._differences.append(f"{self._place}, conversion {len(records)}: {text}")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Iterator[None]:
        is_random = getattr(item.obj, "is_hypothesis_test", False)
        self._places.append("" if is_random else f"{item.path.stem}::{item.name}")
        outcome: Any = yield
        self._places.pop()
        if self._differences:
            text, self._differences = "\n".join(self._differences), []
            outcome.force_exception(AssertionError(f"{text}\nIf this is intended: pytest --record-networks"))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        index = getattr(request, "param_index", 0)
        self._places.append(f"{Path(fixturedef.baseid).stem}::fixture {fixturedef.argname}[{index}]")
        self._found.pop(self._places[-1], None)
        yield
        self._places.pop()

    def pytest_sessionfinish(self) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["networks"] = self._found

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._found.update(getattr(node, "workeroutput", {}).get("networks", {}))

    def pytest_unconfigure(self) -> None:
        if self._is_recording and not hasattr(self._config, "workeroutput"):
            write({place: records for place, records in self._found.items() if place})
