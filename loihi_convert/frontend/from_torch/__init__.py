"""PyTorch modules as a graph of operations."""
