"""Run NIR files in one library's own importer: python nir_reader_process.py READER MODEL.nir ...

In an environment that has the library (`nir_readers.py` makes one); this package is not needed there. Beside each file
lies ``MODEL.npz`` with ``images``, float32 ``(N, C, H, W)``, ``timesteps`` and ``names``, the nodes that spike, in
order. ``MODEL.READER.npz`` gets ``outputs`` ``(N, T, outputs)`` and ``spikes0``, ``spikes1``, ... ``(N, T, *shape)``.
Prints one line of JSON: versions, and for each file the ``stage``, import or run, and the ``failure`` that ended it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import nir
import numpy as np
import torch
from torch import Tensor, nn

Present = Callable[[Tensor, int], list[Tensor]]
"""From an image ``(C, H, W)`` and T to the output of each step, from fresh states."""

_NAMED: Final = ("snntorch", "sinabs", "norse", "spikingjelly", "nir", "nirtorch", "torch")


def snntorch(path: str) -> tuple[nn.Module, Present]:
    """snnTorch; images without a batch axis, because its Flatten counts axes as NIR does."""
    from snntorch import utils
    from snntorch.import_nir import import_from_nir

    model = import_from_nir(nir.read(path))

    def present(image: Tensor, timesteps: int) -> list[Tensor]:
        utils.reset(model)
        return [model(image)[0] for _ in range(timesteps)]

    return model, present


def sinabs(path: str) -> tuple[nn.Module, Present]:
    """sinabs; all steps of an image at once, as its Squeeze layers take them."""
    from sinabs.nir import from_nir

    model = from_nir(nir.read(path), batch_size=1)

    def present(image: Tensor, timesteps: int) -> list[Tensor]:
        for module in model.modules():
            if hasattr(module, "reset_states"):
                module.reset_states()
        found = model(image.expand(timesteps, *image.shape))
        return list(found[0] if isinstance(found, tuple) else found)

    return model, present


def norse(path: str) -> tuple[nn.Module, Present]:
    """norse; images without a batch axis, because its Flatten counts axes as NIR does."""
    from norse.torch import from_nir

    return _with_state(from_nir(nir.read(path)))


def spikingjelly(path: str) -> tuple[nn.Module, Present]:
    """SpikingJelly with dt = 1, because its importer wants r = 1 / dt."""
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return _with_state(import_from_nir(path, dt=1.0), has_batch=True)


def nirtorch(path: str) -> tuple[nn.Module, Present]:
    """nirtorch with modules for neurons, which it leaves to libraries; Affine because nirtorch 2.6 forgets the bias."""
    from nirtorch import nir_to_torch

    nodes = {
        nir.I: Integrator,
        nir.Threshold: Threshold,
        nir.Scale: Scale,
        nir.IF: IntegrateAndFire,
        nir.Affine: affine,
    }
    return _with_state(nir_to_torch(nir.read(path), nodes))


class Integrator(nn.Module):
    def __init__(self, node: Any) -> None:
        super().__init__()
        self.r = torch.from_numpy(node.r)

    def forward(self, current: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        potential = self.r * current + (0 if state is None else state)
        return potential, potential


class Threshold(nn.Module):
    def __init__(self, node: Any) -> None:
        super().__init__()
        self.threshold = torch.from_numpy(node.threshold)

    def forward(self, potential: Tensor) -> Tensor:
        return (potential > self.threshold).float()


class Scale(nn.Module):
    def __init__(self, node: Any) -> None:
        super().__init__()
        self.scale = torch.from_numpy(node.scale)

    def forward(self, signal: Tensor) -> Tensor:
        return signal * self.scale


class IntegrateAndFire(nn.Module):
    def __init__(self, node: Any) -> None:
        super().__init__()
        self.r, self.threshold, self.reset = map(torch.from_numpy, (node.r, node.v_threshold, node.v_reset))

    def forward(self, current: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        potential = self.r * current + (0 if state is None else state)
        fires = potential > self.threshold
        return fires.float(), torch.where(fires, self.reset, potential)


def affine(node: Any) -> nn.Linear:
    module = nn.Linear(node.weight.shape[1], node.weight.shape[0])
    module.weight.data, module.bias.data = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    return module


def _with_state(model: nn.Module, *, has_batch: bool = False) -> tuple[nn.Module, Present]:
    def present(image: Tensor, timesteps: int) -> list[Tensor]:
        given, state, found = image[None] if has_batch else image, None, []
        for _ in range(timesteps):
            output, state = model(given, state)
            found.append(output[0] if has_batch else output)
        return found

    return model, present


READERS: Final = {reader.__name__: reader for reader in (snntorch, sinabs, norse, spikingjelly, nirtorch)}


class _Recorder:
    """Keeps the outputs of the modules with the given names, in order of calls."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.kept: list[list[Tensor]] = [[] for _ in names]
        for name, kept in zip(names, self.kept, strict=True):
            model.get_submodule(name).register_forward_hook(
                lambda module, given, output, kept=kept: kept.append(output[0] if isinstance(output, tuple) else output)
            )

    def spikes(self, shapes: list[tuple[int, ...]], timesteps: int) -> list[np.ndarray[Any, Any]]:
        """Return the recorded spikes of one image, ``(T, *shape)`` each, and forget them."""
        found = []
        for kept, shape in zip(self.kept, shapes, strict=True):
            found.append(torch.cat([each.reshape(-1, *shape) for each in kept]).numpy().reshape(timesteps, *shape))
            kept.clear()
        return found


@torch.no_grad()
def ran(reader: str, path: str) -> dict[str, str]:
    """Run one file; return the stage that it reached, and the exception that ended it."""
    given = np.load(Path(path).with_suffix(".npz"))
    images, timesteps = torch.from_numpy(given["images"]), int(given["timesteps"])
    names = [str(name) for name in given["names"]]
    answer = {"stage": "import"}
    try:
        nodes = nir.read(path).nodes
        model, present = READERS[reader](path)
        answer["stage"] = "run"
        recorder = _Recorder(model, names)
        shapes = [tuple(int(size) for size in nodes[name].output_type["output"]) for name in names]
        steps, spikes = [], []
        for image in images:
            steps.append(torch.stack(present(image, timesteps)).reshape(timesteps, -1).numpy())
            spikes.append(recorder.spikes(shapes, timesteps))
    # What a library raises for a file it cannot read is a result.
    except Exception as error:
        return answer | {"failure": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    layers = {f"spikes{index}": np.stack(layer) for index, layer in enumerate(zip(*spikes, strict=True))}
    layers["outputs"] = np.stack(steps)
    found: dict[str, Any] = layers
    np.savez(Path(path).with_suffix(f".{reader}.npz"), **found)
    return answer


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    line = os.fdopen(os.dup(1), "w")
    # Libraries print to stdout.
    os.dup2(2, 1)
    reader, *paths = sys.argv[1:]
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in _NAMED if name in installed}
    print(json.dumps({"versions": versions, "files": [ran(reader, path) for path in paths]}), file=line)
