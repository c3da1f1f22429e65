"""The networks, from the CNN's ReLU network to Loihi's integers, and their parts."""
