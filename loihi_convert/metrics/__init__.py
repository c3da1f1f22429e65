"""From a run to numbers: accuracy, early exit, diagnosis, advice."""
