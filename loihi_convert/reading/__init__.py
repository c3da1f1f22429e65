"""What a model does, as a graph of operations: recorded while it runs once.

PyTorch tells which ATen operations a run took, so that changes in place, views and helper functions need no code here.

To add an operation: an elementwise function or a rearrangement needs nothing; what is made of other operations is a
line of `values.SIMPLER`; what computes with several numbers is an entry in `computing.COMPUTING`, made of the
operations in `graph`.
"""
