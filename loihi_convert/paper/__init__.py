"""The paper's tables and figures, measured on your networks; modules in the order in which data flow through them.

================  =================================================================================================
``variants``      what is requested; the tables and figures, and how a cell of them is measured here
``images``        the images for each purpose and T
``measurements``  the computations: thresholds, accuracies, firing rates, the best
``fingerprints``  digests of what a setting gives today
``networks``      one trained network: how each of its results is measured, and how much work that is
``plan``          from a request to the cells of its tables and figures, which the package `batch` computes, and files
``tables``        our numbers, the paper's, differences, conversion losses, the order of methods: CSV, Markdown
``figures``       rows of tables, and values of channels, as curves: SVG and PNG
================  =================================================================================================
"""
