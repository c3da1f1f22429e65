"""`loihi-convert demo`: the whole workflow on a small example."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.cli import options
from loihi_convert.cli.console import Fact, log
from loihi_convert.cli.train import trained_sentence
from loihi_convert.ground.choices import BackendName
from loihi_convert.ground.dependencies import is_lava_at_hand
from loihi_convert.ground.files import make_folder, require_new_or_empty
from loihi_convert.ground.options import Flag
from loihi_convert.pipeline.options import WriteOptions


def demo(
    output: options.Output = Path("loihi-convert-demo"),
    timesteps: Annotated[int, Flag("T", "-T,--timesteps")] = 32,
    seed: int = 0,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    *,
    lava: Annotated[BackendOptions, Flag(only=("lava_python",))],
) -> None:
    """Train, export and run a small CNN on 8x8 digits, on Lava if it is installed: everything in about a minute.

    Parameters
    ----------
    output
        Folder to write, new or empty.
    timesteps
        Latency T in time steps.
    seed
        Seed of all random numbers.
    """
    started = time.monotonic()
    if not overwrite:
        require_new_or_empty(output, "Pass `overwrite=True`, or choose a new or an empty folder with `output`.")
    from loihi_convert.cli.run_output import RunScene, say_run
    from loihi_convert.cnn.recipe import TrainOptions
    from loihi_convert.cnn.training import train_cnn
    from loihi_convert.conversion.options import require_timesteps
    from loihi_convert.data import load_data
    from loihi_convert.pipeline import exporting, running
    from loihi_convert.pipeline.opening import open_file
    from loihi_convert.report.figure import write_figure
    from loihi_convert.runs.run_folder import RUNS, dated_name

    require_timesteps((timesteps,))
    backend: BackendName = "sim" if is_lava_at_hand(lava.lava_python) else "ref"
    if backend == "ref":
        log("Lava is not installed, so the demo runs on ref: the same integers. To install it: loihi-convert doctor")
    model = output / "model.pt"
    make_folder(output, "output")
    splits = load_data("digits")
    log("1/3  train a CNN on the embedded digits")
    trained = train_cnn(splits, model, TrainOptions(seed=seed), overwrite=True)
    log(trained_sentence(model, trained))
    log(f"2/3  convert it to spikes, balance thresholds for T = {timesteps}, write a netx file")
    images = splits.calibration_images()
    exported = exporting.export(model, None, (timesteps,), images, writing=WriteOptions(overwrite=True))
    log(f"wrote {exported[0].path}")
    log("3/3  run it on " + ("Lava's CPU simulator" if backend == "sim" else "ref, the exact integers of Loihi"))
    runner = open_backend(backend, lava)
    opened = [open_file(exported[0].path)]
    folder = output / RUNS / dated_name(f"{model.stem}-{backend}")
    done = running.run_into_folder(folder, opened, runner, splits, splits.test, command_line=sys.argv)
    picture = write_figure([done.folder], output / "accuracy.png", overwrite=True)
    scene = RunScene(splits.name, backend, time.monotonic() - started)
    steps = _next_steps(picture, done.folder, exported[0].path, model)
    say_run(done, scene, as_json=as_json, details=False, next_steps=steps)


def _next_steps(picture: Path, run_folder: Path, file: Path, model: Path) -> list[Fact]:
    """Return the figure and three commands to try next."""
    folder, network, checkpoint = (shlex.quote(str(path)) for path in (run_folder, file, model))
    return [
        Fact("picture", str(picture)),
        Fact("next", f"loihi-convert report {folder}"),
        Fact("", f"loihi-convert diagnose {checkpoint} {network}"),
        Fact("", "loihi-convert train --data mnist"),
    ]
