"""How a network was made: the records of its CNN, balancing and rounding in a ``.net`` file."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from loihi_convert.errors import InputError
from loihi_convert.ground.choices import Task
from loihi_convert.ground.normalization import Normalization

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_Record = TypeVar("_Record", bound="ModelRecord | BalanceRecord | QuantizeRecord")


@dataclass(frozen=True)
class ModelRecord:
    """The CNN.

    Parameters
    ----------
    file, sha256
        Name and digest of the checkpoint; ``None`` for a CNN from memory.
    state_sha256
        For a CNN from memory: digest of its tensors, see `stored_states.digest`.
    architecture, arch
        Name of a built-in architecture, or ``package.module:factory`` that builds the CNN.
    data
        Name of the data set.
    data_fingerprint
        `Dataset.fingerprint` of a user's own images.
    calibration_fingerprint
        `Dataset.fingerprint` of the images of a user that thresholds were chosen on.
    classes
        The name of each output.
    mean, std
        Per channel, if images were normalized.
    seed, test_accuracy
        Seed of the training, and accuracy on the test set after it.
    task
        Meaning of the outputs, see `ir.network`; optional in files for classification.
    skip_copies
        Relays per value of a skip connection, see `lowering.to_relu_network`; recorded if not 1.
    multiply_accumulates
        As in `ReluNetwork`.
    """

    file: str | None = None
    sha256: str | None = None
    state_sha256: str | None = None
    architecture: str | None = None
    arch: str | None = None
    data: str | None = None
    data_fingerprint: str | None = None
    calibration_fingerprint: str | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: int | None = None
    test_accuracy: float | None = None
    task: Task = "classification"
    skip_copies: int = 1
    multiply_accumulates: int | None = None

    def __post_init__(self) -> None:
        if self.skip_copies < 1:
            raise InputError(f"found {self.skip_copies}", where="skip_copies", expected="must be at least 1")

    @property
    def normalization(self) -> Normalization | None:
        """``mean`` and ``std``; None if images were not normalized."""
        if self.mean is None and self.std is None:
            return None
        # Earlier versions accepted only one of the two.
        return Normalization(self.mean or (0.0,), self.std or (1.0,))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, or of the outputs of a regression; empty if unknown."""
        return self.classes or ()


@dataclass(frozen=True)
class BalanceRecord:
    """The `BalanceOptions` used; ``calibration_images`` is the number of images, ``timesteps`` is T."""

    method: str | None = None
    percentile: float | None = None
    amplitude: str | None = None
    alpha: float | None = None
    initial_potential: str | None = None
    reset: str | None = None
    readout: str | None = None
    input: str | None = None
    calibration_images: int | None = None
    timesteps: int | None = None


@dataclass(frozen=True)
class QuantizeRecord:
    """The `QuantizeOptions` used."""

    weight_bits: int | None = None
    pixel_bits: int | None = None
    headroom: float | None = None
    target: str = "lava"
    thresholds: str = "channel"


@functools.cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    # Not at the top: the process that runs Lava has no pydantic.
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_record(kind: type[_Record], content: object) -> _Record:
    """Return ``content``, a JSON object, as ``kind``; unknown keys are ignored, null gives the default.

    Raises
    ------
    InputError
        If a value has the wrong type; ``where`` is its key.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"found {content!r}", expected="must be a JSON object")
    from pydantic import ValidationError

    given = json.dumps({key: value for key, value in content.items() if value is not None})
    try:
        return cast(_Record, _reader(cast(Any, kind)).validate_json(given, strict=True))
    except ValidationError as error:
        first = error.errors()[0]
        expected = first["msg"].replace("Input should be", "must be")
        raise InputError(f"found {first['input']!r}", where=str(first["loc"][0]), expected=expected) from error


class Provenance(Mapping[str, Any]):
    """The JSON object stored in a file, unchanged, and its known parts as typed records.

    Unknown keys, from other versions, are kept and written back unchanged.

    Parameters
    ----------
    content
        Plain JSON values; copied.
    """

    def __init__(self, content: Mapping[str, Any] | None = None) -> None:
        self._content: dict[str, Any] = json.loads(json.dumps(dict(content or {})))

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return f"Provenance({self._content!r})"

    def with_parts(self, **parts: object) -> Provenance:
        """Return a copy with ``parts``, JSON values, added or replaced."""
        return Provenance({**self._content, **parts})

    @cached_property
    def model(self) -> ModelRecord:
        """The CNN."""
        return read_record(ModelRecord, self._content.get("model", {}))

    @cached_property
    def balance(self) -> BalanceRecord:
        """The balancing options used."""
        return read_record(BalanceRecord, self._content.get("balance", {}))

    @cached_property
    def quantize(self) -> QuantizeRecord:
        """The quantization options used."""
        return read_record(QuantizeRecord, self._content.get("quantize", {}))

    @property
    def is_corrected(self) -> bool:
        """Whether `balancing.correct_biases` was applied."""
        return "calibration" in self._content

    @property
    def method(self) -> str:
        """The balancing method in words: ``percentile 99.9, corrected``."""
        name, percentile = self.balance.method or "unknown method", self.balance.percentile
        shown = name if name != "percentile" or percentile is None else f"{name} {percentile:g}"
        return f"{shown}, corrected" if self.is_corrected else shown

    def require_types(self) -> None:
        """Raise an `InputError` if this version cannot read a part; ``where`` is the path of its key."""
        for part in ("model", "balance", "quantize"):
            try:
                getattr(self, part)
            except InputError as error:
                where = f"{part}.{error.where}" if error.where else part
                raise InputError(error.found, where=where, expected=error.expected) from error


def as_provenance(content: Mapping[str, Any]) -> Provenance:
    """Return ``content`` as a `Provenance`."""
    return content if isinstance(content, Provenance) else Provenance(content)
