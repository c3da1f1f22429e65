"""Will it fit: what is wrong with a network before anyone touches a chip.

==============  ===============================================================================================
``finding``     what a rule has found, and for which target it is an error
``stock``       any netx file, as lava-dl reads it
``stock_rules`` what lava-dl cannot load of it, and widths of weights, decays, thresholds, biases
``integers``    a network of ours in T steps: what can overflow, which channels cannot fire, the chip's reset
``activity``    which channels of it, or of the CNN, stay silent or fire at every step on images
``resources``   neurons, synapses, memory and neurocores, layer by layer
==============  ===============================================================================================

Every rule is a small function whose name is the claim, in the one list of its file.
"""
