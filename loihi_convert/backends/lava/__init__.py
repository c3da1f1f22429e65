"""Lava's CPU simulator, at arm's length in a host process."""
