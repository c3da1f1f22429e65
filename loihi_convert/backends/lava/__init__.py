"""Lava's CPU simulator, isolated in a host process."""
