"""A sweep: many conversions of trained CNNs, each exported and run, on one machine or on a cluster.

`grid` makes cells from lists of options (`setting`), `conversion` exports and runs one, `front` finds the cells that no
other cell beats. The package `cells` keeps and drives them.
"""
