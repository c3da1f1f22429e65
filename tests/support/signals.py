"""One-dimensional signals: MNIST-1D (Greydanus & Kobak 2020). Results against T:
uv run --with mnist1d --with requests python tests/support/signals.py [FOLDER]

The package mnist1d generates 4,000 signals of 40 samples for training and 1,000 for testing, ten classes, seed 42. The
script trains the data set's own CNN with a max pooling added, exports it for several T as a user would, and runs each
file on the test signals. FOLDER must be new; it receives the data, the checkpoint, the files, and a run folder.
Default: temporary.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from loihi_convert import cli
from loihi_convert.arrays import Array

TIMESTEPS: Final = "1,2,4,8,16,32,64"
STEPS: Final = 4_000
_MOST: Final = 3.0
"""Standard deviations that pixel 0 and pixel 255 stand for; what lies beyond is clipped."""


def network(channels: int = 25) -> nn.Module:
    """Return an untrained CNN for signals ``(N, 1, 40)``."""
    return nn.Sequential(
        *(nn.Conv1d(1, channels, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(channels, channels, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv1d(channels, channels, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(5 * channels, 10)),
    )


def as_pixels(signals: Array) -> Array:
    """Return float signals ``(N, L)`` of unit deviation as uint8 ``(N, 1, L)``."""
    return np.rint(255 * np.clip(signals / (2 * _MOST) + 0.5, 0, 1)).astype(np.uint8)[:, np.newaxis]


def trained(signals: Array, labels: Array) -> nn.Module:
    """Return a `network` trained reproducibly on uint8 ``(N, 1, L)``, each signal shifted by up to 2 samples."""
    torch.manual_seed(0)
    model = network()
    x, y = torch.from_numpy(signals / np.float32(255)), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(x), (128,))
        moved = torch.roll(x[chosen], int(torch.randint(-2, 3, ())), 2)
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(moved), y[chosen]))
        optimizer.step()
        schedule.step()
    return model.eval()


def main(folder: Path) -> None:
    """Generate the data, train, export and run in ``folder``."""
    from mnist1d.data import get_dataset_args, make_dataset

    folder.mkdir(parents=True)
    data = make_dataset(get_dataset_args())
    signals, test = as_pixels(data["x"]), as_pixels(data["x_test"])
    np.savez(folder / "train.npz", images=signals, labels=data["y"])
    np.savez(folder / "test.npz", images=test, labels=data["y_test"])
    torch.save(trained(signals, data["y"]).state_dict(), folder / "signals.pt")
    before = Path.cwd()
    os.chdir(folder)
    try:
        _run("export", "signals.pt", "-T", TIMESTEPS, "--data", "train.npz", "--arch", "signals:network")
        files = [f"signals-T{steps}.net" for steps in TIMESTEPS.split(",")]
        _run("run", *files, "--data", "test.npz", "--arch", "signals:network", "-o", "per-T")
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
            main(Path(temporary) / "signals")
