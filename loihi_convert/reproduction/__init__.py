"""The paper's tables and figures, measured on your networks.

============  =====================================================================================================
``request``   which table or figure, of which networks and images
``flow``      from a request to files: computed, put beside the paper's numbers, written
``cells``     what a table or figure consists of: the paper's cells, and how each is measured here (variants)
``records``   a folder with one JSON file for each result: a killed run continues from it
``images``    which images are used at which T
``meter``     how far a command is
``measure``   a network's accuracies, thresholds and firing rates, read from the records or computed
``best``      the best of our methods for each T
``channels``  a value of every channel: firing rates, thresholds
``tables``    our numbers, the paper's, differences, conversion losses; CSV
``order``     whether the methods come in the paper's order
``page``      a table as Markdown and in the terminal
``figures``   SVG and PNG
============  =====================================================================================================
"""
