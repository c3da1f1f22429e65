"""How a network was made: what a ``.net`` file records of its CNN, of balancing and of rounding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Texts = Annotated[tuple[str, ...], Field(strict=False)]
Numbers = Annotated[tuple[float, ...], Field(strict=False)]


class _Part(BaseModel):
    """What a file may leave out is None, or its default; what other versions record besides stays in the JSON."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class ModelRecord(_Part):
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
    """

    file: str | None = None
    sha256: str | None = None
    architecture: str | None = None
    arch: str | None = None
    data: str | None = None
    classes: Texts | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    seed: int | None = None
    test_accuracy: float | None = None


class BalanceRecord(_Part):
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


class QuantizeRecord(_Part):
    """The `QuantizeOptions` that were used."""

    weight_bits: int | None = None
    pixel_bits: int | None = None
    headroom: float | None = None
    target: str = "lava"
    thresholds: str = "channel"


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
        return ModelRecord.model_validate(self._content.get("model", {}))

    @cached_property
    def balance(self) -> BalanceRecord:
        """How it was balanced."""
        return BalanceRecord.model_validate(self._content.get("balance", {}))

    @cached_property
    def quantize(self) -> QuantizeRecord:
        """How it was rounded."""
        return QuantizeRecord.model_validate(self._content.get("quantize", {}))

    @property
    def is_corrected(self) -> bool:
        """Whether `bias_correction.correct_biases` has changed biases."""
        return "calibration" in self._content

    @property
    def was_chosen(self) -> bool:
        """Whether the method is the one that ``auto`` found best."""
        return bool(self._content.get("choice"))

    def problem(self) -> tuple[str, str] | None:
        """Return the key of a part that is not what this version reads, and why; ``None`` if there is none."""
        for part in ("model", "balance", "quantize"):
            try:
                getattr(self, part)
            except ValidationError as error:
                found = error.errors()[0]
                return ".".join(map(str, (part, *found["loc"]))), f"{found['input']!r}: {found['msg']}"
        return None


def as_provenance(content: Mapping[str, Any]) -> Provenance:
    """Return ``content`` as a `Provenance`."""
    return content if isinstance(content, Provenance) else Provenance(content)
