"""Someone who connects to the ports of a Dask cluster without its keys."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, Security


def listening(processes: Iterable[psutil.Process]) -> list[tuple[str, int]]:
    """Return host and port of every port of ``processes`` that accepts connections; UDP ports, too."""
    found = []
    for process in processes:
        for each in process.net_connections("inet"):
            if each.status == psutil.CONN_LISTEN or each.type == socket.SOCK_DGRAM:
                found.append((each.laddr.ip, each.laddr.port))
    return found


def said(port: int, keys: Security | None, folder: Path, *, encrypted: bool = True) -> bytes:
    """Return what a port says first to a connection with the certificate in ``keys``; empty if it is turned away.

    Dask's nodes say first which compressions they know.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if keys is not None:
        (folder / "pem").write_text(keys.tls_client_key + keys.tls_client_cert)
        context.load_cert_chain(folder / "pem")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            if not encrypted:
                connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
                return connection.recv(100)
            with context.wrap_socket(connection) as secured:
                return secured.recv(100)
    except (ssl.SSLError, ConnectionError):
        return b""


def assert_turned_away(port: int, folder: Path) -> None:
    """No stranger gets an answer from ``port``: without TLS, without a certificate, or with that of another cluster."""
    assert not said(port, None, folder, encrypted=False)
    assert not said(port, None, folder)
    assert not said(port, Security.temporary(), folder)
    options: dict[str, Any]
    for scheme, options in (("tcp", {}), ("tls", {"security": Security.temporary()})):
        try:
            Client(f"{scheme}://127.0.0.1:{port}", timeout=1, **options).close()
        except OSError:
            continue
        raise AssertionError(f"{scheme}://127.0.0.1:{port} lets a stranger in")
