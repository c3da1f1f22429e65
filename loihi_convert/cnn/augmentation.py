"""Random rotation, scaling, shear, translation, mirroring and cut-out of training images, as a `Recipe` says."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from loihi_convert.cnn.recipe import Recipe


def augmented(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return each image with its own random augmentation, float32 ``(N, C, H, W)``."""
    if recipe.is_affine:
        images = _mapped(images, recipe, generator)
    return _cut_out(images, recipe.cutout, generator) if recipe.cutout else images


def _cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return each image with a square of ``side`` pixels set to 0, around any of its pixels."""
    count, _, *lengths = images.shape
    inside = []
    for length in lengths:
        first = torch.randint(length, (count, 1), generator=generator) - side // 2
        position = torch.arange(length)
        inside.append((position >= first) & (position < first + side))
    rows, columns = inside
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _mapped(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return each image under its own random affine map; pixels from outside are 0.

    The map from output to input coordinates (both in -1..1) is rotation times shear, divided by the scale, plus a
    shift.
    """
    count = len(images)
    angle, zoom, shear, right, down = 2 * torch.rand((5, count), generator=generator, dtype=torch.float32) - 1
    if recipe.translation and not (recipe.rotation or recipe.scaling or recipe.shear):
        right, down = (
            torch.round(share * recipe.translation * length) / (length * recipe.translation)
            for share, length in ((right, images.shape[3]), (down, images.shape[2]))
        )
    angle = angle * math.radians(recipe.rotation)
    factor = 1 / (1 + zoom * recipe.scaling)
    tangent = shear * recipe.shear
    cos, sin = torch.cos(angle), torch.sin(angle)
    # The coordinates span 2, hence the factor 2 of the translation, both along the height and along the width.
    aspect = images.shape[2] / images.shape[3]
    rows = (
        torch.stack([cos, (cos * tangent - sin) * aspect, 2 * recipe.translation * right / factor], 1),
        torch.stack([sin / aspect, sin * tangent + cos, 2 * recipe.translation * down / factor], 1),
    )
    maps = torch.stack(rows, 1) * factor[:, None, None]
    if recipe.flip:
        maps[:, :, 0] *= 2 * torch.randint(2, (count, 1), generator=generator) - 1
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)
