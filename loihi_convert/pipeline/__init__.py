"""The whole flow: model.pt -> netx file -> backend -> accuracy against latency.

`opening` reads a CNN or a file, `exporting` converts a trained CNN to files that Lava can run, `running` runs and
evaluates them, whoever wrote them, `checking` finds what prevents a run, and `diagnosing` where accuracy is lost. The
command `demo` is `train`, `export` and `run` in sequence.
"""
