"""The whole flow: model.pt -> netx file -> backend -> accuracy against latency.

`export` converts a trained CNN to files that Lava can run, `run` runs and evaluates them, `diagnose` finds where
accuracy is lost. The command `demo` is `train`, `export` and `run` in sequence. Netx files written by other tools are
run by `run_external_into_folder`.
"""

from __future__ import annotations

from loihi_convert.pipeline.checking import CheckReport, LoadedFile, check, load_file
from loihi_convert.pipeline.diagnosing import DiagnosisReport, diagnose
from loihi_convert.pipeline.exporting import ExportResult, export
from loihi_convert.pipeline.external_run import ExternalRun, run_external_into_folder
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.running import FileRun, OpenedFile, RunFolder, open_file, run, run_into_folder

__all__ = [
    "CheckReport",
    "DiagnosisReport",
    "ExportResult",
    "ExternalRun",
    "FileRun",
    "LoadedFile",
    "OpenedFile",
    "RunFolder",
    "RunOptions",
    "check",
    "diagnose",
    "export",
    "load_file",
    "open_file",
    "run",
    "run_external_into_folder",
    "run_into_folder",
]
