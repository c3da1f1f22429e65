"""A sweep: many conversions of trained CNNs, each exported and run, on one machine or on a cluster.

`grid` makes cells from lists of options, `cell` names each by a digest of all that determines it, `compute` exports and
runs one, `front` finds the cells that no other cell beats. The package `cells` keeps and drives them.
"""
