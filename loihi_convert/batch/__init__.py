"""Batches: many computations, each kept under the digest of all that determines it, on any number of processes.

`computation` names and computes one, `store` keeps results in a folder, `flow` drives them, `dask_executors` opens the
processes. A sweep consists of conversions (`conversion`) of a grid (`grid`) of options (`setting`), each exported and
run; `results`, `front`, `verdict`, `table` and `page` show them. The paper's tables are computed in the same way.
"""
