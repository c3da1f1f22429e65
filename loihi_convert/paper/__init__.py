"""The paper's tables and figures, measured on your networks; modules in the order in which data flow through them.

================  =================================================================================================
``exhibits``      the paper's tables and figures, and what each shows
``variants``      how a cell of the paper is measured here
``flow``          from a request to files: measures, compares with the paper's numbers, writes
``request``       the requested tables and figures, with their networks and images
``images``        which images are used at which T
``plan``          from a request to the cells of its tables and figures, which the package `cells` computes
``networks``      one trained network: how each of its results is measured, and how much work that is
``measurements``  the computations: thresholds, accuracies, firing rates, the best of our methods
``stored``        what is stored of them
``fingerprint``   tells whether stored results are those of today's conversion
``results``       the results of a plan
``tables``        our numbers, the paper's, differences, conversion losses; CSV
``order``         whether the methods rank as in the paper
``page``          a table as Markdown and in the terminal
``panels``        rows of tables, and values of channels, as the curves of figures
``figures``       SVG and PNG
================  =================================================================================================
"""
