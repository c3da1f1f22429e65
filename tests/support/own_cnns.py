"""CNNs of a user, from data to results against T: python tests/support/own_cnns.py {blobs,signals} [FOLDER]

``blobs``    Regression. Each image contains noise and one Gaussian blob; the targets are its row and column, in pixels.
``signals``  MNIST-1D (Greydanus & Kobak 2020): the package mnist1d generates 4,000 signals of 40 samples for training
             and 1,000 for testing, ten classes, seed 42. The CNN is the data set's own with a max pooling added. Run it
             with ``uv run --with mnist1d --with requests``.

The script trains a small CNN, exports it for several T with the commands of a user, and runs each file on the test
data. FOLDER must be new; it receives data, checkpoint, files, run folders and, for blobs, a report. Default: temporary.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from loihi_convert import cli
from loihi_convert.ground.arrays import Array

TIMESTEPS = "1,2,4,8,16,32,64"
FINE_TUNED = ("1", "2", "4")
"""T of the signals' networks that are fine-tuned with as many QCFS levels."""

SIZE = 16
TRAINING, TEST = 4_000, 2_000
BLOB_STEPS, SIGNAL_STEPS = 2_000, 4_000
_MOST: Final = 3.0
"""Standard deviations of a signal that pixel 0 and pixel 255 stand for; values beyond are clipped."""


def blobs(count: int, size: int = SIZE, *, seed: int = 0) -> tuple[Array, Array]:
    """Return images, uint8 ``(N, size, size)``, and the blob's row and column in pixels, float64 ``(N, 2)``."""
    random = np.random.default_rng(seed)
    centre = random.uniform(2, size - 3, (count, 2))
    row, column = np.mgrid[:size, :size]
    squares = (row - centre[:, :1, None]) ** 2 + (column - centre[:, 1:, None]) ** 2
    light = 0.8 * np.exp(-squares / 4.5) + 0.1 * random.random((count, size, size))
    return np.rint(255 * light).astype(np.uint8), centre


def blob_network(outputs: int = 2, size: int = SIZE) -> nn.Module:
    """Return an untrained CNN for `blobs`."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * (size // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, outputs)),
    )


def signal_network(channels: int = 25) -> nn.Module:
    """Return an untrained CNN for signals ``(N, 1, 40)``."""
    return nn.Sequential(
        *(nn.Conv1d(1, channels, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(channels, channels, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv1d(channels, channels, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(5 * channels, 10)),
    )


def fitted(images: Array, targets: Array, loss: nn.Module, *, steps: int, size: int = SIZE) -> nn.Module:
    """Return a `blob_network` trained on ``images`` with targets ``(N, outputs)``; the result is reproducible."""
    torch.manual_seed(0)
    model = blob_network(targets.shape[1], size)
    return _trained(model, images[:, np.newaxis], targets.astype(np.float32), loss, steps, batch=64)


def _trained(
    model: nn.Module,
    images: Array,
    targets: Array,
    loss: nn.Module,
    steps: int,
    *,
    batch: int,
    weight_decay: float = 0.0,
    moved: Callable[[Tensor], Tensor] = lambda x: x,
) -> nn.Module:
    x, y = torch.from_numpy(images / np.float32(255)), torch.from_numpy(targets)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (batch,))
        optimizer.zero_grad()
        loss(model(moved(x[chosen])), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def generated_signals() -> dict[str, Array]:
    """Return MNIST-1D: ``x`` and ``x_test``, float ``(N, 40)`` of unit deviation; ``y`` and ``y_test``, classes."""
    from mnist1d.data import get_dataset_args, make_dataset

    return dict(make_dataset(get_dataset_args()))


def run_blobs() -> None:
    """Train, export, run and report in the current folder."""
    for name, count, seed in (("train", TRAINING, 0), ("test", TEST, 1)):
        images, targets = blobs(count, seed=seed)
        np.savez(f"{name}.npz", images=images, targets=targets, classes=["row", "column"])
    torch.save(fitted(*blobs(TRAINING), nn.MSELoss(), steps=BLOB_STEPS).state_dict(), "blobs.pt")
    arch, test = ("--arch", "own_cnns:blob_network"), ("--data", "test.npz")
    files = _exported("blobs", "--task", "regression", *arch)
    _run("run", *files, *test, *arch, "-o", "per-T")
    _run("run", files[-1], *test, *arch, "-o", "anytime")
    _run("report", "per-T")


def run_signals() -> None:
    """Generate the data, train with each signal shifted by up to 2 samples, export and run in the current folder."""
    data = generated_signals()
    pixels = {
        name: np.rint(255 * np.clip(data[name] / (2 * _MOST) + 0.5, 0, 1)).astype(np.uint8)[:, np.newaxis]
        for name in ("x", "x_test")
    }
    np.savez("train.npz", images=pixels["x"], labels=data["y"])
    np.savez("test.npz", images=pixels["x_test"], labels=data["y_test"])
    torch.manual_seed(0)
    trained = _trained(
        signal_network(),
        pixels["x"],
        data["y"],
        nn.CrossEntropyLoss(),
        SIGNAL_STEPS,
        batch=128,
        weight_decay=0.05,
        moved=lambda x: torch.roll(x, int(torch.randint(-2, 3, ())), 2),
    )
    torch.save(trained.state_dict(), "signals.pt")
    arch = ("--arch", "own_cnns:signal_network")
    _run("run", *_exported("signals", *arch), "--data", "test.npz", *arch, "-o", "per-T")
    for name, teacher in (("qcfs", ()), ("taught", ("--teacher", "signals.pt"))):
        for steps in FINE_TUNED:
            tuned, levels = f"{name}-L{steps}", ("--qcfs", steps, *teacher)
            _run("train", "--from", "signals.pt", *levels, "--data", "train.npz", *arch, "-o", f"{tuned}.pt")
            _run("export", f"{tuned}.pt", "-T", steps, "--data", "train.npz", *arch)
            _run("run", f"{tuned}.net", "--data", "test.npz", *arch, "-o", f"{tuned}-run")


def _exported(name: str, *words: str) -> list[str]:
    _run("export", f"{name}.pt", "-T", TIMESTEPS, "--data", "train.npz", *words)
    return [f"{name}-T{steps}.net" for steps in TIMESTEPS.split(",")]


def _run(*words: str) -> None:
    print(f"$ loihi-convert {' '.join(words)}", flush=True)
    cli.app(words, standalone_mode=False)


def main(example: str, folder: Path) -> None:
    """Run ``example``, blobs or signals, in the new ``folder``."""
    folder.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        {"blobs": run_blobs, "signals": run_signals}[example]()
    finally:
        os.chdir(before)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(sys.argv[1], Path(temporary) / "example")
