"""What a model does, as a graph of operations: recorded while it runs once."""
