"""Whether torch fits the memory that this process may have: asked before it is imported."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Final

from loihi_convert.errors import PlatformError

_LIMITS: Final = {"ulimit -v": resource.RLIMIT_AS, "ulimit -d": resource.RLIMIT_DATA}
_GIBIBYTE: Final = 2**30
# Below the first, NumPy alone does not load; above the second, torch with all of CUDA does.
_TOO_LITTLE: Final = _GIBIBYTE // 4
_AMPLE: Final = 32 * _GIBIBYTE

# As much less as the child may have, so that something is left for the work. The CPU time ends it where it hangs.
_TRIAL: Final = f"""
import resource
for limit in {tuple(_LIMITS.values())}:
    soft, hard = resource.getrlimit(limit)
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(limit, (soft - {_GIBIBYTE // 4}, hard))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import torch
weight = torch.ones(16, 16, 3, 3, requires_grad=True)
torch.nn.functional.conv2d(torch.ones(64, 16, 32, 32), weight).sum().backward()
"""


def require_memory() -> None:
    """Return if torch works within the limits on this process's memory; does nothing where there are none.

    Too little of it ends without an exception: OpenBLAS, when NumPy loads it, asks for its buffers for ever (32 MiB per
    core), and torch calls abort(). How much is needed depends on the build of torch (3.5 GiB of addresses for one
    without CUDA) and on the number of cores. So a child tries it.

    Raises
    ------
    PlatformError
        If it does not.
    """
    limits = {name: resource.getrlimit(limit)[0] for name, limit in _LIMITS.items()}
    limits = {name: size for name, size in limits.items() if size != resource.RLIM_INFINITY and size < _AMPLE}
    if limits and (min(limits.values()) < _TOO_LITTLE or not _torch_works()):
        found = ", ".join(f"{size / _GIBIBYTE:.2f} GiB by {name}" for name, size in limits.items())
        raise PlatformError(
            f"memory: what this process may have ({found}) is not enough to work with torch; nothing was begun. Raise "
            "the limit; 6 GiB are enough for a small network."
        )


def _torch_works() -> bool:
    command = [sys.executable, "-c", _TRIAL]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return done.returncode == 0
