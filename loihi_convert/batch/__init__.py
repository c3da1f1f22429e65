"""Batches: many computations, each kept under the digest of all that determines it, on any number of processes.

`computation` names, computes and stores them, on the `clusters` that `places` chooses. A sweep consists of conversions
(`conversion`) of a grid (`grid`) of options (`setting`), each exported and run; `results` shows them. The paper's
tables are computed in the same way.
"""
