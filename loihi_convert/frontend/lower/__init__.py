"""Graph -> `ReluNetwork`: any feed-forward CNN of ReLUs as a chain of synapses with ReLU between them.

`lowering` goes through the graph once, and calls the other files:

============== ============================================================================================
file           lowers
============== ============================================================================================
`affine`       batch norm, normalization, arithmetic with constants
`linear`       convolutions and dense layers; consecutive ones become one
`pooling`      average pooling, a linear map
`max_pool`     max pooling, by ReLUs
`activation`   ReLU, ReLU6, LeakyReLU, PReLU, `qcfs.Qcfs`: they create populations of neurons
`residual`     sums and differences
`concat`       concatenation
`moves`        flattening, slices, shuffles, zero padding
`levels`       populations -> their layers, and relays for connections that skip layers
`chain`        levels -> `ReluNetwork`
============== ============================================================================================

All but the last two work on `value.Value`: a sum of linear maps of populations. `window.Window` is such a map.
"""

from __future__ import annotations

from loihi_convert.frontend.lower.lowering import lowered, obstacles, to_relu_network

__all__ = ["lowered", "obstacles", "to_relu_network"]
