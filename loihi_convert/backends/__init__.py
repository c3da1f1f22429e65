"""Backends that run exported files: one interface, interchangeable implementations.

Every backend returns the same integers, bit for bit. In `run`, each reads the exported *file*, so that the shipped file
is tested.

==========  =================================  =========================================
name        implementation                     what it is
==========  =================================  =========================================
``ref``     `backends.reference`               exact integers in torch, batched, fast
``sim``     `backends.lava.lava_backend`       Lava's CPU simulator in its own process
``loihi2``  `backends.lava.lava_backend`       a Loihi 2 board; never tested on one
==========  =================================  =========================================
"""
