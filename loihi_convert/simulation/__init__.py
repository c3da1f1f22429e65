"""Integrate-and-fire simulation in floating point and in integers: fast, exact, on CPU or GPU.

==================  =============================================================================================
``simulator``       a network on images: its outputs, extremes, and clipped images
``layers``          a layer on a CPU or a GPU, and what is recorded; ``one_step``, the neurons' equations to read
``neuron_kernels``  the compiled loops of a CPU
``currents``        images -> inputs; a synapse as a function of a batch, in the fastest arithmetic that is exact
``image_shards``    images divided among processes and cores
``layerwise``       a network that grows layer by layer while it is balanced
``relu``            the CNN's activations
``graded``          graded spikes, step by step
``intermediate``    the networks between a CNN and its file
==================  =============================================================================================
"""
