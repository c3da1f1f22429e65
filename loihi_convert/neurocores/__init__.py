"""How many neurocores a network takes, by the published measurements of Intel's compiler.

====================  ==========================================================================================
``synaptic_memory``   words of synaptic memory of a kernel, a dense layer and the stock circuit
``partition``         how a layer is divided among neurocores: tiles of convolutions, neurons of dense layers
``savings``           changes of a CNN that save neurocores
``resources``         neurons, synapses and neurocores of a network
====================  ==========================================================================================
"""
