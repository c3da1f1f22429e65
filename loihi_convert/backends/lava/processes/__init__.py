"""Our own Lava Processes and ProcessModels, and nothing but what these compute with.

To find a Process's models, Lava executes every module that lies beside it, each without its package: the modules here
import absolutely and do nothing on import. Only `own_network`,
`stock_network` and `synapse_processes` import them.
"""
