"""A Loihi 2 board."""
