"""The same training gives the same bytes, slow or fast, in any process, interrupted or not; so does `export`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import loihi_convert as lc
from loihi_convert import cli
from loihi_convert.cnn.checkpoint import Checkpoint, load_model
from loihi_convert.data import load_data

EPOCHS = 2
TRAIN = ["train", "--data", "digits", "--epochs", str(EPOCHS)]


def slow(epoch: int, accuracy: float) -> None:
    """Take long, and be interrupted after the first epoch."""
    time.sleep(0.3)
    raise KeyboardInterrupt


def write_all(folder: Path, *, is_interrupted: bool) -> None:
    """Train plainly, with QCFS, through spikes, and by `fine_tune`; export the last."""
    digits = load_data("digits")

    def trained(name: str, start: Checkpoint | None = None, **options: int) -> Checkpoint:
        chosen = lc.TrainOptions(epochs=EPOCHS, **options)  # type: ignore[arg-type]
        training = partial(lc.train_cnn, digits, folder / name, chosen, start=start)
        if is_interrupted:
            with pytest.raises(KeyboardInterrupt):
                training(on_epoch=slow)
        return training(resume=is_interrupted)

    plain = trained("plain.pt")
    trained("spiking.safetensors", trained("qcfs.pt", plain, qcfs_levels=2), timesteps=2)
    images, (model, _) = digits.train[:300], load_model(folder / "plain.pt")
    lc.fine_tune(model, images.images, images.known_labels, qcfs_levels=2, epochs=1, output=folder / "own.pt")
    words = ["export", str(folder / "spiking.safetensors"), "-T", "2", "-o", str(folder / "spiking.net")]
    cli.app(words, standalone_mode=False)


@pytest.mark.slow
def test_the_same_training_gives_the_same_bytes(tmp_path: Path) -> None:
    straight, interrupted = tmp_path / "straight", tmp_path / "interrupted"
    straight.mkdir()
    interrupted.mkdir()
    write_all(straight, is_interrupted=False)
    # Sets of strings have another order there.
    subprocess.run(
        [sys.executable, __file__, interrupted], env={**os.environ, "PYTHONHASHSEED": "1"}, check=True, timeout=200
    )
    found = {path.name: path.read_bytes() for path in straight.iterdir()}
    assert found.keys() == {"plain.pt", "qcfs.pt", "spiking.safetensors", "own.pt", "spiking.net"}
    differing = [name for name, content in found.items() if (interrupted / name).read_bytes() != content]
    assert differing == []
    cli.app([*TRAIN, "-o", str(tmp_path / "plain.pt")], standalone_mode=False)
    assert (tmp_path / "plain.pt").read_bytes() == found["plain.pt"]


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), is_interrupted=True)
