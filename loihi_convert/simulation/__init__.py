"""Integrate-and-fire simulation, of real numbers and of integers: fast, exact, on CPU or GPU."""
