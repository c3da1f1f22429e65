"""The steps of docs/architecture.md, carried out on a copy of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
SECTIONS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL))

ALL = """
import sys
import numpy as np, torch, loihi_convert as lc
from torch import nn
images = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), dtype=np.uint8)
class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    def forward(self, x):
        return LAST(self.layers(x))
def made(method="percentile", target="lava"):
    balancing, quantization = lc.BalanceOptions(method=method), lc.QuantizeOptions(target=target)
    return lc.convert(Cnn(), images, timesteps=4, balancing=balancing, quantization=quantization)
LAST = lambda x: x
"""
USES = {
    "an operation": "LAST = torch.erf; made(); LAST = lambda x: x",
    "a balancing method": "print(made(method='norm-99').network.provenance.method)",
    "a file format": """
from pathlib import Path
from loihi_convert.pipeline.exporting import export
from loihi_convert.pipeline.options import WriteOptions
from loihi_convert.reading.source import Source
source = Source.from_module(Cnn(), (1, 6, 6))
(done,) = export(source, "weights.npz", (4,), images, writing=WriteOptions("npz"))
print(done.notes[-1], sorted(np.load("weights.npz").files))
""",
    "a chip": "print(made(target='loihi3').network.target)",
    "a figure": """
from pathlib import Path
from loihi_convert import cli
made().save("model.net")
np.savez("own.npz", images=images, labels=np.arange(20) % 3)
cli.app(["run", "model.net", "--data", "own.npz", "-o", "run"], standalone_mode=False)
cli.app(["report", "run", "-o", "page.html"], standalone_mode=False)
assert "Images of each file" in Path("page.md").read_text()
""",
}


def carried_out(section: str, folder: Path) -> None:
    """Apply the diffs of a section: within a file, each run of ``-`` lines becomes the ``+`` lines below it."""
    (diff,) = re.findall(r"```diff\n(.*?)```", SECTIONS[section], re.DOTALL)
    for name, changes in re.findall(r"^--- (.+?)\n(.*?)(?=^--- |\Z)", diff, re.MULTILINE | re.DOTALL):
        path = folder / name
        text = path.read_text()
        for before, after in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", changes, re.MULTILINE):
            old, new = (re.sub(r"^[-+]", "", lines, flags=re.MULTILINE).removesuffix("\n") for lines in (before, after))
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        path.write_text(text)


def test_every_way_to_add_is_used() -> None:
    assert set(USES) == set(SECTIONS)


def test_what_the_page_adds_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "loihi_convert", tmp_path / "loihi_convert", ignore=shutil.ignore_patterns("__pycache__"))
    tried = "".join(
        f"try:\n    exec({use!r})\nexcept Exception as error: print('lacks', {name!r}, repr(error))\n"
        for name, use in USES.items()
    )
    program = [sys.executable, "-c", ALL + tried]
    for is_there in (False, True):
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
        lacking = {name for name in USES if f"lacks {name}" in done.stdout}
        assert lacking == (set() if is_there else set(USES)), done.stdout + done.stderr
        for section in () if is_there else USES:
            carried_out(section, tmp_path)
