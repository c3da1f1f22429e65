"""Integrate-and-fire simulation in floating point and in integers: fast, exact, on CPU or GPU.

==================  =============================================================================================
``simulator``       a network on images: its outputs, extremes, and clipped images
``layer_spec``      one layer as simulated, and the values recorded from it
``device``          a layer on a CPU or a GPU; ``one_step``, the neurons' equations to read
``neurons``         the same step on a CPU, for all steps of many images
``neuron_kernels``  its compiled loops
``currents``        images -> inputs; a synapse as a function of a batch, in the fastest arithmetic that is exact
``image_shards``    images divided among processes and cores
``layerwise``       a network that grows layer by layer while it is balanced
``relu``            the CNN's activations
``graded``          graded spikes, step by step
``intermediate``    the networks between a CNN and its file
==================  =============================================================================================
"""
