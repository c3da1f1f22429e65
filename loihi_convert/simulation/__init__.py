"""Integrate-and-fire simulation in floating point and in integers: fast, exact, on CPU or GPU."""
