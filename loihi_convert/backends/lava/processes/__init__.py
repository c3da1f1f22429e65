"""Custom Lava Processes and ProcessModels, and only the code they use.

To find the models of a Process, Lava executes every module next to it, each without its package: the modules here
import absolutely and do nothing on import. Only `networks` imports them.
"""
