"""The whole flow: model.pt -> netx file -> backend -> accuracy against latency.

`export` converts a trained CNN to files that Lava can run, `run` runs and evaluates them, `diagnose` finds where
accuracy is lost. The command `demo` is `train`, `export` and `run` in sequence. Netx files written by other tools are
run by `run_external_into_folder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loihi_convert.lazy import on_first_use

if TYPE_CHECKING:
    from loihi_convert.pipeline.checking import check
    from loihi_convert.pipeline.diagnosing import diagnose
    from loihi_convert.pipeline.exporting import export
    from loihi_convert.pipeline.external_run import run_external_into_folder
    from loihi_convert.pipeline.loaded_file import load_file
    from loihi_convert.pipeline.opened_file import open_file
    from loihi_convert.pipeline.options import RunOptions
    from loihi_convert.pipeline.running import run, run_into_folder

_HOMES: Final = {
    "RunOptions": "options",
    "check": "checking",
    "diagnose": "diagnosing",
    "export": "exporting",
    "load_file": "loaded_file",
    "open_file": "opened_file",
    "run": "running",
    "run_external_into_folder": "external_run",
    "run_into_folder": "running",
}
__getattr__ = on_first_use(__name__, _HOMES)

__all__ = [
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
