"""Convert torchvision's classification models, and write docs/results/torchvision.csv.

    python tools/torchvision_models.py                        # all models
    python tools/torchvision_models.py resnet18 resnet34      # continue: some models; the other rows are kept

A row says that a model was converted with the same output as torch, or why it was refused. It is written as soon as it
is known. Weights are random, and batch-norm statistics randomized. Each model runs in a separate process, which ends
after the limit. Images have 224 x 224 pixels, or the size that the model requires. `tools/pages.py` makes the table of
docs/results/networks.md from the file.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from stored_results import read_rows

from loihi_convert.ground.files import write_atomically
from loihi_convert.runs.columns import as_csv

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "docs/results/torchvision.csv"

# The float64 evaluation of a chain is in the tests.
sys.path.insert(0, str(ROOT / "tests"))

MODELS = (
    "alexnet", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101",
    "wide_resnet50_2", "resnext50_32x4d", "squeezenet1_0", "squeezenet1_1", "densenet121", "densenet169", "googlenet",
    "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_0",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x2_0", "regnet_x_400mf", "regnet_y_400mf",
    "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t", "maxvit_t",
)  # fmt: skip

FIELDS = (
    "model", "size", "result", "largest_relative_error", "obstacles", "levels", "relay_channels", "neurons",
    "relay_neurons", "weights", "neurocores", "seconds", "memory_gib",
)  # fmt: skip
_LARGER = {"inception_v3": 299}
_UNTRAINED = ("googlenet", "inception_v3")


def measured(name: str, size: int) -> dict[str, Any]:
    """Return the row of a model; torch is imported only in this process."""
    import torch
    import torchvision
    from support.modules import outputs, randomized
    from torch import nn

    from loihi_convert.chip.resources import network_resources
    from loihi_convert.errors import LoihiConvertError
    from loihi_convert.ir.network import relay_count
    from loihi_convert.lowering import lowered, obstacles

    torch.manual_seed(0)
    options = {"init_weights": False} if name in _UNTRAINED else {}
    model: nn.Module = getattr(torchvision.models, name)(weights=None, **options)
    randomized(model.eval()).double()
    for module in model.modules():
        # Gains as after training: mostly near 1.
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.mul_(0.1)
            assert module.running_mean is not None
            module.running_mean.mul_(0.1)
    shape = (3, size, size)
    begin = time.monotonic()
    try:
        found = obstacles(model, shape)
        if found:
            return {"result": f"refused: {found[0].where}: {found[0].found}", "obstacles": len(found)}
        network = lowered(model, shape).network
    except LoihiConvertError as refusal:
        return {"result": f"refused: {refusal.where}: {refusal.found}", "obstacles": 1}
    seconds = time.monotonic() - begin
    images = torch.rand(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(images)
        error = float((outputs(network, images) - wanted).abs().max() / wanted.abs().max())
    chips = network_resources(network)
    return {
        "result": "equal" if error < 1e-9 else "DIFFERS",
        "largest_relative_error": f"{error:.1e}",
        "obstacles": 0,
        "levels": len(network.layers),
        "relay_channels": sum(relay_count(layer.relay_of) for layer in network.layers),
        "neurons": sum(math.prod(each) for each in network.shapes),
        "relay_neurons": sum(layer.relay_neurons for layer in chips.layers),
        "weights": sum(layer.synapse.weight.size for layer in network.layers),
        "neurocores": "..".join(map(str, dict.fromkeys(chips.cores)))
        + "†" * any(not layer.fits for layer in chips.layers),
        "seconds": f"{seconds:.0f}",
    }


def row_of(name: str, size: int, limit: float) -> dict[str, Any]:
    """Return the row of a model, computed in a separate process."""
    size = max(size, _LARGER.get(name, 0)) if size == 224 else size
    command = [sys.executable, __file__, "--one", name, "--size", str(size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"model": name, "size": size, "result": f"not done after {limit:.0f} s"}
    if done.returncode == -signal.SIGKILL:
        return {"model": name, "size": size, "result": "not done: killed, as Linux does when memory runs out"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return {"model": name, "size": size, "result": f"failed: {last}"}
    return {"model": name, "size": size, **json.loads(done.stdout.splitlines()[-1])}


def measure(models: Sequence[str], size: int, limit: float, output: Path) -> None:
    """Write the rows of ``models`` to ``output``, each as soon as it is known; the other rows are kept."""
    rows: dict[str, Mapping[str, Any]] = {row["model"]: row for row in read_rows(output)} if output.exists() else {}
    for name in models:
        row = row_of(name, size, limit)
        rows[name] = {field: row.get(field, "") for field in FIELDS}
        print(f"{name}: {row['result']}", flush=True)
        write_atomically(output, as_csv(rows[each] for each in dict.fromkeys((*MODELS, *rows)) if each in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="default: docs/results/torchvision.csv")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        row = measured(arguments.one, arguments.size)
        # On Linux the unit is KiB.
        print(json.dumps({**row, "memory_gib": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}"}))
        return
    measure(arguments.models or MODELS, arguments.size, arguments.limit, arguments.output)


if __name__ == "__main__":
    main()
