"""Hardware facts about Loihi and Lava, and how many neurocores a network takes.

=============  =================================================================================================
``limits``     `TARGETS`: a line a target; every number of Loihi and Lava, once, with its source
``rules``      the integers that a chip and Lava's CPU models can hold
``energy``     energy and time, from published constants of Loihi 1
``partition``  how a layer is divided among neurocores, their synaptic memory, and changes that save neurocores
``resources``  neurons, synapses and neurocores of a network
=============  =================================================================================================
"""
