"""Regression of a blob's position in generated images. Results against T: python tests/support/blobs.py [FOLDER]

Each image contains noise and one Gaussian blob; the targets are its row and column, in pixels. The script trains a
small CNN, exports it for several T as a user would, runs each file on other images, and prints RMSE and R^2 against T.
FOLDER must be new; it receives the data, the checkpoint, the files, two run folders and a report. Default: temporary.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from loihi_convert import cli
from loihi_convert.arrays import Array

TIMESTEPS = "1,2,4,8,16,32,64"
SIZE = 16
TRAINING, TEST = 4_000, 2_000
STEPS = 2_000


def blobs(count: int, size: int = SIZE, *, seed: int = 0) -> tuple[Array, Array]:
    """Return images, uint8 ``(N, size, size)``, and the blob's row and column in pixels, float64 ``(N, 2)``."""
    random = np.random.default_rng(seed)
    centre = random.uniform(2, size - 3, (count, 2))
    row, column = np.mgrid[:size, :size]
    squares = (row - centre[:, :1, None]) ** 2 + (column - centre[:, 1:, None]) ** 2
    light = 0.8 * np.exp(-squares / 4.5) + 0.1 * random.random((count, size, size))
    return np.rint(255 * light).astype(np.uint8), centre


def network(outputs: int = 2, size: int = SIZE) -> nn.Module:
    """Return an untrained CNN for `blobs`."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * (size // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, outputs)),
    )


def fitted(images: Array, targets: Array, loss: nn.Module, *, steps: int, size: int = SIZE) -> nn.Module:
    """Return a `network` trained on ``images`` with targets ``(N, outputs)``; the result is reproducible."""
    torch.manual_seed(0)
    model = network(targets.shape[1], size)
    x = torch.from_numpy(images[:, np.newaxis] / np.float32(255))
    y = torch.from_numpy(targets.astype(np.float32))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        loss(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def main(folder: Path) -> None:
    """Train, export, run and report in ``folder``."""
    folder.mkdir(parents=True)
    for name, count, seed in (("train", TRAINING, 0), ("test", TEST, 1)):
        images, targets = blobs(count, seed=seed)
        np.savez(folder / f"{name}.npz", images=images, targets=targets, classes=["row", "column"])
    model = fitted(*blobs(TRAINING), nn.MSELoss(), steps=STEPS)
    torch.save(model.state_dict(), folder / "blob.pt")
    arch, test = ("--arch", "blobs:network"), ("--data", "test.npz")
    before = Path.cwd()
    os.chdir(folder)
    try:
        _run("export", "blob.pt", "-T", TIMESTEPS, "--task", "regression", "--data", "train.npz", *arch)
        files = [f"blob-T{steps}.net" for steps in TIMESTEPS.split(",")]
        _run("run", *files, *test, *arch, "-o", "per-T")
        _run("run", files[-1], *test, *arch, "-o", "anytime")
        _run("report", "per-T")
    finally:
        os.chdir(before)


def _run(*words: str) -> None:
    print(f"$ loihi-convert {' '.join(words)}", flush=True)
    cli.app(words, standalone_mode=False)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary) / "blobs")
