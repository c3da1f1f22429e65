"""Loihi and Lava in numbers: limits, rules on integers, resources, energy."""
