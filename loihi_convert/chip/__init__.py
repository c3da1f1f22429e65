"""Hardware facts about Loihi and Lava.

====================  ==========================================================================================
``limits``            every number of Loihi and Lava, once, with its source
``rules``             the integers that a chip and Lava's CPU models can hold
``energy``            energy and time, from published constants of Loihi 1
====================  ==========================================================================================
"""
