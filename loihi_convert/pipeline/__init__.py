"""The whole flow: model.pt -> netx file -> backend -> accuracy against latency.

`exporting` converts a trained CNN to files that Lava can run, `running` runs and evaluates them, `checking` finds what
prevents a run, and `diagnosing` where accuracy is lost. `graded` exports and runs files with graded spikes,
`external_run` runs files of other tools. The command `demo` is `train`, `export` and `run` in sequence.
"""
