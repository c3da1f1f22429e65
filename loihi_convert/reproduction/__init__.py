"""The paper's tables and figures, measured on your networks.

============  =====================================================================================================
``cells``     what a table or figure consists of: the paper's cells, and how each is measured here (variants)
``records``   a folder with one JSON file for whatever has been computed: what a killed run goes on with
``images``    which images are taken at which T
``meter``     how far a command is
``measure``   a network's accuracies, thresholds and firing rates, taken from there or computed
``best``      the best of our methods for each T
``tables``    CSV and Markdown: ours, the paper's, differences, conversion losses, the order of the methods
``figures``   SVG, PNG, and CSV with the points that are drawn
============  =====================================================================================================
"""
