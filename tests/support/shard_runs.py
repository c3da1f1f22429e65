"""Shards computed as if elsewhere, files to run in shards, and the content of a run folder without times."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions
from loihi_convert.data import DataSplits
from loihi_convert.pipeline import exporting
from support.training import train

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

TIMES = ("seconds", "startup_seconds", "images_per_second", "utc_time")


class Elsewhere:
    """Workers that compute at most ``count`` shards, in a random order, each as if in a process of its own."""

    def __init__(self, count: int) -> None:
        self.count, self.computed = count, 0

    def map(
        self,
        function: Callable[[Shared, Item], Result],
        shared: Shared,
        items: Sequence[Item],
        *,
        place: Callable[[Item], Hashable] | None = None,
        done: Callable[[Item], None] = lambda item: None,
    ) -> list[Result]:
        found: dict[int, Result] = {}
        for index in random.Random(0).sample(range(len(items)), len(items)):
            arguments = pickle.loads(pickle.dumps((shared, items[index])))
            found[index] = pickle.loads(pickle.dumps(function(*arguments)))
            done(items[index])
        self.computed += len(items)
        return [found[index] for index in range(len(items))]


def write_files(folder: Path, digits: DataSplits) -> None:
    """Write a briefly trained model.pt, model.net for constant pixels, and poisson.net, both for T = 8."""
    train("digits-cnn", digits, replace(default_recipe("digits"), epochs=3), seed=0, output=folder / "model.pt")
    images = digits.calibration_images()
    for name, options in (
        ("model", BalanceOptions(method="percentile")),
        ("poisson", BalanceOptions(method="percentile", poisson_seed=7)),
    ):
        exporting.export(folder / "model.pt", folder / f"{name}.net", (8,), images, ConversionOptions(options))


def written(folder: Path, *also_without: str) -> dict[str, Any]:
    """The files of a run folder by name: their bytes, or the content of a JSON file without times."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if key not in (*TIMES, *also_without)}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return {
        path.name: without(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()
        for path in folder.iterdir()
    }
