"""The whole flow: model.pt -> netx file -> backend -> accuracy against latency.

`export` turns a trained CNN into files that Lava runs, `run` runs them and evaluates what comes back, `diagnose` says
where accuracy went. `demo` on the command line is `train`, `export` and `run`, one after the other. Netx files that
`export` has not written are run by `run_foreign_into_folder`.
"""

from __future__ import annotations

from loihi_convert.pipeline.checking import Candidate, Checked, check, open_candidate
from loihi_convert.pipeline.diagnosing import Diagnosed, diagnose
from loihi_convert.pipeline.exporting import Exported, ExportOptions, export, output_paths
from loihi_convert.pipeline.external_run import ForeignRun, run_foreign_into_folder
from loihi_convert.pipeline.running import CompletedRun, Ran, run, run_into_folder

__all__ = [
    "Candidate",
    "Checked",
    "CompletedRun",
    "Diagnosed",
    "ExportOptions",
    "Exported",
    "ForeignRun",
    "Ran",
    "check",
    "diagnose",
    "export",
    "open_candidate",
    "output_paths",
    "run",
    "run_foreign_into_folder",
    "run_into_folder",
]
