"""The training of a built-in CNN with any recipe, as `train_cnn` does it, without its checks of the files."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.design import built_in
from loihi_convert.cnn.recipe import Recipe, TrainOptions
from loihi_convert.cnn.training import train_design
from loihi_convert.data import DataSplits
from loihi_convert.ground.progress import progress_to


def train(
    architecture: str,
    splits: DataSplits,
    recipe: Recipe,
    *,
    seed: int,
    output: Path,
    qcfs_levels: int | None = None,
    start: Checkpoint | None = None,
    **options: Any,
) -> Checkpoint:
    """Return the trained CNN; ``options`` are those of `train_design` and `TrainOptions`, with ``test`` and
    ``progress``."""
    design = built_in(architecture, splits, qcfs_levels, start, timesteps=recipe.timesteps)
    given = {name: options.pop(name) for name in ("store", "device", "test") if name in options}
    chosen = TrainOptions(seed=seed, **{"test": True, **given})
    progress = options.pop("progress", None)
    with nullcontext() if progress is None else progress_to(progress):
        return train_design(design, splits, recipe, chosen, output, **options)
