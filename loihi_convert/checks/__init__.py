"""Check whether a network can run on a target: layers lava-dl cannot load, numbers that overflow, resources.

====================  ==========================================================================================
``finding``           what a rule has found, and for which target it is an error
``stock_rules``       any netx file: what lava-dl cannot load; widths of weights, decays, thresholds, biases
``integer_rules``     a native network in T steps: overflow, channels that cannot fire, the chip's reset
``activity``          channels of a network, or of the CNN, that are silent or fire at every step on images
``resource_rules``    neurocores and memory
``lava_dl_notes``     the findings that `export` prints for users of unmodified lava-dl
``environment``       what `doctor` looks at
====================  ==========================================================================================

Every rule is a small function whose name is the claim, in the one list of its file.
"""
