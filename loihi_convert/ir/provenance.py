"""How a network was made: what a ``.net`` file records of its CNN, of balancing and of rounding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final, TypeVar, get_args

from loihi_convert.choices import Task
from loihi_convert.errors import InputError, one_of

Record = TypeVar("Record", bound="ModelRecord | BalanceRecord | QuantizeRecord")


@dataclass(frozen=True)
class ModelRecord:
    """The CNN.

    Parameters
    ----------
    file, sha256
        Name and digest of the checkpoint; ``None`` for a CNN from memory.
    architecture, arch
        What built it: the name of an architecture, or ``package.module:factory``.
    data
        Name of the data set.
    classes
        The name of each output.
    mean, std
        Per channel, where images were normalized.
    seed, test_accuracy
        Of its training.
    task
        What its outputs are, see `ir.task`; files of classification need not record it.
    skip_copies
        How many relays carry each value of a skip, see `lower.to_relu_network`; recorded where it is not 1.

    Raises
    ------
    InputError
        If there is no such task, or ``skip_copies`` is below 1.
    """

    file: str | None = None
    sha256: str | None = None
    architecture: str | None = None
    arch: str | None = None
    data: str | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: int | None = None
    test_accuracy: float | None = None
    task: Task = "classification"
    skip_copies: int = 1

    def __post_init__(self) -> None:
        if self.skip_copies < 1:
            raise InputError(f"found {self.skip_copies}", where="skip_copies", expected="must be at least 1")
        if self.task not in get_args(Task):
            raise InputError(f"found {self.task!r}", where="task", expected=one_of(get_args(Task)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its classes, or of its numbers; empty if they are not known.

        Earlier versions named a single output, which tells two classes apart, and not its classes.
        """
        names = self.classes or ()
        return () if self.task == "classification" and len(names) == 1 else names


@dataclass(frozen=True)
class BalanceRecord:
    """The `BalanceOptions` that were used; ``calibration_images`` counts the images, ``timesteps`` is T."""

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
    """The `QuantizeOptions` that were used."""

    weight_bits: int | None = None
    pixel_bits: int | None = None
    headroom: float | None = None
    target: str = "lava"
    thresholds: str = "channel"


# By the annotation of a field: the types of its JSON value, those of the items of a list, and their name.
_KINDS: Final[Mapping[str, tuple[tuple[type, ...], tuple[type, ...], str]]] = {
    "str": ((str,), (), "a text"),
    "Task": ((str,), (), "a text"),
    "int": ((int,), (), "a whole number"),
    "float": ((int, float), (), "a number"),
    "tuple[str, ...]": ((list, tuple), (str,), "a list of texts"),
    "tuple[float, ...]": ((list, tuple), (int, float), "a list of numbers"),
}


def read_record(kind: type[Record], content: object) -> Record:
    """Return the ``kind`` that the JSON object ``content`` holds; other keys are ignored, null is the default.

    Raises
    ------
    InputError
        If a value has another type; ``where`` is its key.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"found {content!r}", expected="must be a JSON object")
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = content.get(field.name)
        if value is None:
            continue
        types, items, expected = _KINDS[str(field.type).removesuffix(" | None")]
        if not _is_one_of(value, types) or (items and not all(_is_one_of(item, items) for item in value)):
            raise InputError(f"found {value!r}", where=field.name, expected=f"must be {expected}")
        values[field.name] = tuple(value) if items else value
    return kind(**values)


def _is_one_of(value: object, types: tuple[type, ...]) -> bool:
    # In Python, not in JSON, a truth value is a whole number.
    return isinstance(value, types) and not isinstance(value, bool)


class Provenance(Mapping[str, Any]):
    """The JSON object that a file holds, unchanged, and its known parts as values.

    Files of other versions may hold other keys: they are kept, and written again as they were.

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
        """Return this with parts, JSON values, added or replaced."""
        return Provenance({**self._content, **parts})

    @cached_property
    def model(self) -> ModelRecord:
        """The CNN."""
        return read_record(ModelRecord, self._content.get("model", {}))

    @cached_property
    def balance(self) -> BalanceRecord:
        """How it was balanced."""
        return read_record(BalanceRecord, self._content.get("balance", {}))

    @cached_property
    def quantize(self) -> QuantizeRecord:
        """How it was rounded."""
        return read_record(QuantizeRecord, self._content.get("quantize", {}))

    @property
    def is_corrected(self) -> bool:
        """Whether `bias_correction.correct_biases` has changed biases."""
        return "calibration" in self._content

    def require_types(self) -> None:
        """Raise an `InputError` if a part is not what this version reads; ``where`` is the path of its key."""
        for part in ("model", "balance", "quantize"):
            try:
                getattr(self, part)
            except InputError as error:
                where = f"{part}.{error.where}" if error.where else part
                raise InputError(error.found, where=where, expected=error.expected) from error


def as_provenance(content: Mapping[str, Any]) -> Provenance:
    """Return ``content`` as a `Provenance`."""
    return content if isinstance(content, Provenance) else Provenance(content)
