"""Check whether a network can run on a target: layers lava-dl cannot load, numbers that overflow, resources.

====================  ==========================================================================================
``finding``           the result of a rule, and its severity for each target
``stock_rules``       any netx file: what lava-dl cannot load; widths of weights, decays, thresholds, biases
``network_rules``     a native network over T steps: overflow, channels that cannot fire, the chip's reset, resources
``activity``          channels of a network or CNN that are silent, or fire at every step, on given images
``lava_dl``           what unmodified lava-dl makes of a file, and what that costs
``environment``       the checks of `doctor`
====================  ==========================================================================================

Every rule is a small function whose name is the claim, in the list of rules in its file.
"""
