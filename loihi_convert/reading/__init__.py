"""What a model does, as a graph of operations: recorded while it runs once.

`reader.read_graph` makes the same `Graph` as `frontend.from_torch`, which still reads for the product: PyTorch tells
which ATen operations one run took, so that changes in place, views and helper functions need no code here. It takes
over when both agree on every model: ``tests/test_read.py`` compares them on the models of lowering and lists where
they differ, and ``pytest --compare-readers LOG`` on all that the chosen tests convert.
"""
