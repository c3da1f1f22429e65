"""Cells: pure computations, each named by a digest of all that determines it, kept in a folder, computed anywhere.

`cell` names and computes one, `store` keeps results in a folder, `executors` and `dask_executors` compute where there
are processors, `flow` drives them. A sweep and the paper's tables consist of cells.
"""
