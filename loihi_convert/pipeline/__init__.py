"""The whole flow: model.pt -> netx file -> backend -> accuracy against latency.

`exporting` converts a trained CNN to files that Lava can run, `running` runs and evaluates them, `diagnosing` finds
where accuracy is lost. The command `demo` is `train`, `export` and `run` in sequence. Netx files written by other tools
are run by `external_run`.
"""
