"""NIR files as torch modules."""
