"""From a PyTorch CNN to a spiking network in Loihi's integers: convert, balance, quantize."""
