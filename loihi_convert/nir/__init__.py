"""NIR files (``.nir``), the format in which spiking-network libraries exchange networks (extra ``nir``).

Written here; read as the input of `export` by `reading.from_nir`.
"""

from __future__ import annotations

from loihi_convert.nir.file import write
from loihi_convert.nir.graph import to_graph

__all__ = ["to_graph", "write"]
