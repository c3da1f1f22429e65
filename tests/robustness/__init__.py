"""Damaged files and disturbed commands: sweeps of thousands of trials, and the part of each that tests run."""
