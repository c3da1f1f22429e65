"""Hardware facts about Loihi and Lava.

====================  ==========================================================================================
``limits``            every number of Loihi and Lava, once, with its source
``rules``             the integers that a chip and Lava's CPU models can hold
``synaptic_memory``   words of synaptic memory of a kernel, a dense layer and the stock circuit
``partition``         how a layer is divided among neurocores: tiles of convolutions, neurons of dense layers
``savings``           changes of a CNN that save neurocores
``resources``         neurons, synapses and neurocores of a network
``energy``            energy and time, from published constants of Loihi 1
====================  ==========================================================================================
"""
