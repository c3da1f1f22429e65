"""Hardware facts about Loihi and Lava: limits, rules on integers, resources, energy."""
