"""The paper's tables and figures from networks of ours, for `reproduce.py`.

============  =====================================================================================================
``cells``     what a table or figure consists of: the paper's cells, and how each is measured here (variants)
``records``   a folder with one JSON file for whatever has been computed: what a killed run goes on with
``measure``   a network's accuracies, thresholds and firing rates, taken from there or computed
``tables``    CSV and Markdown: ours, the paper's, differences, conversion losses, the order of the methods
``figures``   SVG, PNG, and CSV with the points that are drawn
============  =====================================================================================================
"""
