"""Graph -> `ReluNetwork`: any feed-forward CNN of ReLUs as a chain of synapses with ReLU between them.

Only a ReLU creates neurons; everything between two ReLUs is one linear map. So lowering keeps each tensor as a sum of
linear maps of neurons, and gives those neurons, the *populations*, to the layers of a chain. A value that is needed
after more than one layer passes the layers between in *relays*, neurons that repeat one neuron of the layer before.

Example: ``x = relu(conv0(image))``, ``y = relu(conv2(relu(conv1(x))) + x)``, ``fc(y)``.

1. `traversal` goes through the nodes once. Each gets a tensor, and the ReLUs and the output become populations:

   =======  ====================  ==========
   node     tensor                population
   =======  ====================  ==========
   image    image
   conv0    W0 image + b0
   relu     x                     0
   conv1    W1 x + b1
   relu_1   a                     1
   conv2    W2 a + b2
   add      W2 a + x + b2
   relu_2   y                     2
   fc       W3 y + b3             3
   =======  ====================  ==========

2. `levels` places them: x on level 1, a on 2, y on 3, the output on 4. It finds that y needs x from level 1, so that
   level 2 also has a relay of each channel of x.
3. `chain` makes a layer of each level: level 2 has the channels [a, relays of x] and the kernel [W1; 1],
   level 3 the channels [y] and the kernel [W2, 1].

============== ============================================================================================
file           contains
============== ============================================================================================
`chain`        the steps in order: the functions below; levels and relays -> layers, with their kernels and groups
`traversal`    graph -> populations: a case for each operation, and what follows each node
`value`        a tensor: a sum of terms, each a `window.Window` of some channels of a population
`window`       a linear map between feature maps, and the composition of two
`operations`   a tensor after each operation; consecutive linear ones become one
`levels`       populations -> their levels, each of which becomes a layer
============== ============================================================================================

To add an operation: give it a class in `reading.graph`, make it in `reading`, and add a case to `traversal`. The case
calls a function from tensors to a tensor, built from those of `value` (`summed`, `scaled`, `shifted`,
`Value.of_channels`), `operations.through` for any `Window`, and `Populations.add` for a ReLU. If no linear map exists,
these functions raise `MustBeCarriedError`, and the traversal does the rest. An operation that is linear on vectors and
may follow the last ReLU belongs in `traversal.Uses`, too.
"""

from __future__ import annotations

from loihi_convert.lowering.chain import lowered, obstacles, to_relu_network

__all__ = ["lowered", "obstacles", "to_relu_network"]
