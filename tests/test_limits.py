"""Every constant of Loihi is defined once, in `chip.limits`."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "loihi_convert"
NUMBERS = {2**12, 2**12 - 1, 2**17, 2**17 - 1, 2**23, 2**23 - 1, 2**24, 2**24 - 1}
# Equal to one of them by coincidence: bins of a histogram, the largest input of a function of torch, the whole numbers
# that float32 holds, values in a block.
COINCIDENCES = {
    ("simulation/relu.py", 2**12),
    ("cnn/qcfs.py", 2**24),
    ("simulation/layers.py", 2**24),
    ("netx/hdf5.py", 2**12),
    ("metrics/diagnosis.py", 2**23),
}


def value(node: ast.AST) -> object:
    """The number that an expression of literals is: 4096, "4096", 2**12, 1 << 12."""
    if isinstance(node, ast.Constant):
        number = node.value
        return int(number) if isinstance(number, str) and number.isdecimal() and len(number) < 9 else number
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift):
        left, right = value(node.left), value(node.right)
        if isinstance(left, int) and isinstance(right, int) and 0 <= right < 64:
            return left**right if isinstance(node.op, ast.Pow) else left << right
    return None


def test_no_other_file_writes_a_number_of_loihi() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), number)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (number := value(node)) in NUMBERS and not isinstance(number, bool)
    }
    assert {name for name, _ in found} >= {"chip/limits.py"}
    assert {item for item in found if item[0] != "chip/limits.py"} == COINCIDENCES
