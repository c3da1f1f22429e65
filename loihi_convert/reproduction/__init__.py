"""The paper's tables and figures, measured on your networks.

===============  ==================================================================================================
``request``      the requested table or figure, with its networks and images
``flow``         from a request to files: measures, compares with the paper's numbers, writes
``paper_cells``  the cells of a table or figure, and how each is measured here (variants)
``records``      a folder with one JSON file for each result, so that a killed run can continue
``images``       which images are used at which T
``meter``        progress of a command
``measure``      a network's accuracies, thresholds and firing rates, read from the records or computed
``best``         the best of our methods for each T
``channels``     one value for every channel: firing rates or thresholds
``tables``       our numbers, the paper's, differences, conversion losses; CSV
``order``        whether the methods rank as in the paper
``page``         a table as Markdown and in the terminal
``figures``      SVG and PNG
===============  ==================================================================================================
"""
