"""NIR files (``.nir``), the format in which spiking-network libraries exchange networks (extra ``nir``)."""
