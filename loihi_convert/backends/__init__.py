"""Backends that run networks: one interface, interchangeable implementations.

Every backend returns the same integers, bit for bit.

==========  =================================  =========================================
name        implementation                     what it is
==========  =================================  =========================================
``ref``     `backends.reference`               exact integers in torch, batched, fast
``sim``     `backends.lava.lava_backend`       Lava's CPU simulator in its own process
``loihi2``  `backends.lava.lava_backend`       a Loihi 2 board; never tested on one
==========  =================================  =========================================
"""
