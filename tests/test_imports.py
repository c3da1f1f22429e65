"""Imports run one way, and the heavy libraries stay in the files that are allowed to know them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "loihi_convert"

# A module may import from the lines above its own, never from its own line or below.
ORDER = [
    {"errors", "progress", "results.paper"},
    {"files", "memory", "synapse", "cnn.recipe"},
    {"conversion.sample", "poisson", "compiled"},
    {
        "rounding",
        "loihi",
        "simulation.stage",
        "simulation.neuron_kernels",
        "simulation.current_kernels",
        "cnn.qcfs_kernels",
    },
    {"network", "circuit", "cnn.qcfs"},
    {"quantized", "data.dataset", "cuba"},
    {"data.benchmarks"},
    {"data.own_images"},
    {
        "data",
        "cnn.models",
        "cnn.few_bits",
        "cnn.augmentation",
        "simulation.currents",
        "simulation.neurons",
        "cnn.torch_zip",
        "conversion.operations",
    },
    {"simulation.gpu", "simulation.inputs", "simulation.cuba", "cnn.checkpoint", "cnn.accuracy", "conversion.chain"},
    {"simulation.relu", "simulation.simulate", "cnn.float16"},
    {"simulation.largest_currents", "simulation.intermediate"},
    {"simulation.layerwise"},
    {"conversion.thresholds", "conversion.integers", "conversion.scalar_threshold"},
    {"conversion.scales"},
    {"conversion.chip_scales", "conversion.proven"},
    {
        "cnn.train",
        "conversion.convert",
        "conversion.balance",
        "conversion.quantize",
        "conversion.account",
        "netx.hdf5",
    },
    {"netx.ours", "netx.foreign"},
    {"netx"},
    {"source", "conversion.calibrate"},
    {"conversion.choice"},
    {"backends", "backends.recording", "backends.timing", "backends.board"},
    {"backends.difference", "backends.request", "backends.lava_processes"},
    {
        "backends.reference",
        "backends.reference_cuba",
        "backends.lava_files",
        "backends.lava_synapses",
        "backends.host_process",
    },
    {"backends.lava", "backends.lava_network", "backends.lava_circuit", "backends.chip_plan"},
    {"backends.loihi2", "backends.lava_hardware"},
    {"backends.lava_host"},
    {"results.schema"},
    {"results.formats", "results.axes", "inspection.contents", "checks.finding"},
    {"inspection.differences"},
    {"inspection.tables", "checks.stock", "checks.integers", "checks.resources"},
    {"checks.activity", "checks.stock_rules"},
    {"results.early_exit", "results.energy"},
    {"results.evaluate"},
    {"results.diagnose"},
    {"results.advice"},
    {"results.tables", "results.figure"},
    {"results.run_folder", "doctor"},
    {"report.stored_run", "report.ticks"},
    {"report.svg"},
    {"report.charts", "report.entries"},
    {"report.page", "report.timestep_chart"},
    {"report.point_tables", "report.beside_the_paper", "report.neurons"},
    {"report.headline", "report.accuracy", "report.early_exit", "report.energy"},
    {"report.layers", "report.confusion", "report.provenance"},
    {"report.report"},
    {"pipeline.origin"},
    {"pipeline.exporting", "pipeline.running", "pipeline.foreign", "pipeline.checking", "pipeline.golden"},
    {"pipeline.diagnosing"},
    {"pipeline"},
    {"cli.console", "cli.options"},
    {"cli.dry_run", "cli.golden", "cli.foreign"},
    {"cli.train", "cli.export", "cli.run", "cli.report", "cli.diagnose", "cli.inspect", "cli.doctor", "cli.check"},
    {"cli.demo"},
    {"cli"},
    {"__main__"},
]
# Packages whose __init__.py says what is in them, and nothing else.
FACES = {
    "__init__",
    *(
        f"{folder}.__init__"
        for folder in ("checks", "cnn", "conversion", "inspection", "report", "results", "simulation")
    ),
}
HEAVY = {
    "torch": {"cnn", "conversion", "simulation", "source"},
    "numba": {"compiled"},
    "h5py": {"netx.hdf5"},
    "jinja2": {"report.page"},
    "lava": {
        "backends.lava_host",
        "backends.lava_network",
        "backends.lava_circuit",
        "backends.lava_synapses",
        "backends.lava_hardware",
        "backends.lava_processes",
    },
}


def modules() -> dict[str, Path]:
    named = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in named.items() if name not in FACES}


def rank(module: str) -> int:
    return next(
        index
        for index, names in enumerate(ORDER)
        if any(module == name or (module.startswith(f"{name}.") and name.endswith("processes")) for name in names)
    )


def imported(path: Path) -> set[tuple[str, bool]]:
    """(module, whether at the top of the file) of every import; ``from package import module`` counts as the module."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            found |= {(alias.name, top) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add((name if name.removeprefix("loihi_convert.") in modules() else node.module, top))
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_run_one_way(module: str) -> None:
    for name, top in imported(modules()[module]):
        if name.startswith("loihi_convert."):
            target = name.removeprefix("loihi_convert.")
            # open_backend chooses among the implementations below it, inside the function.
            if (module, top) == ("backends", False):
                continue
            same_folder = module.startswith("backends.lava_processes") and target.startswith("backends.lava_processes")
            assert same_folder or rank(target) < rank(module), f"{module} imports {target}"
        for heavy, allowed in HEAVY.items():
            if name.split(".")[0] == heavy:
                assert any(module == a or module.startswith(f"{a}.") for a in allowed), f"{module} imports {heavy}"


def test_the_command_line_starts_without_heavy_imports() -> None:
    program = (
        "import sys, loihi_convert.cli; print(*(set(sys.modules) & {'torch', 'numpy', 'h5py', 'lava', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
