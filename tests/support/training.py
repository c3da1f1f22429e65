"""The training of a built-in CNN with any recipe, as `train_cnn` does it, without its checks of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loihi_convert.cnn.checkpoint import Checkpoint
from loihi_convert.cnn.design import built_in
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.cnn.training import train_design
from loihi_convert.data import DataSplits


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
    """Return the trained CNN; ``options`` are as in `train_design`, but test images are evaluated by default."""
    design = built_in(architecture, splits, qcfs_levels, start, timesteps=recipe.timesteps)
    return train_design(design, splits, recipe, seed=seed, output=output, **{"test": True, **options})
