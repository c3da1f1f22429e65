"""Dask's scheduler and worker without an HTTP server, which would show logs and paths to everyone who can connect."""

from __future__ import annotations

import distributed


class _WithoutHttp:
    def start_http_server(self, *arguments: object, **options: object) -> None:
        """Open no port: Dask starts its HTTP server also without a dashboard."""


class Scheduler(_WithoutHttp, distributed.Scheduler):  # type: ignore[misc]
    """Listens for TLS alone."""


class Worker(_WithoutHttp, distributed.Worker):  # type: ignore[misc]
    """Listens for TLS alone."""
