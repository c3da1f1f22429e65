"""Base class of stored results: strict, immutable records."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Figures as stored in ``result.json``: known fields only, finite numbers, immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
