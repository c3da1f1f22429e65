"""Figures of a run: accuracy, early exit, diagnosis, advice."""
