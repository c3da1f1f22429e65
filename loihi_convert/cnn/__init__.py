"""The source CNN: its architectures, its training, and its files."""
