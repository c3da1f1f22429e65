"""Check whether a network can run on a target: layers lava-dl cannot load, numbers that overflow, resources.

====================  ==========================================================================================
``finding``           the result of a rule, and its severity for each target
``network_rules``     a native network over T steps: overflow, channels that cannot fire, or that are silent or fire at
                      every step on given images, the chip's reset, resources
``lava_dl``           any netx file: what lava-dl cannot load, widths of numbers; what lava-dl computes with a
                      file of this package
``environment``       the checks of `doctor`
====================  ==========================================================================================

Every rule is a small function whose name is the claim, in the list of rules in its file.
"""
