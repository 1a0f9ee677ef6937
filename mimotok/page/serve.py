"""A server for the page, for this machine alone."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mimotok.io.files import StrPath

HOST = "127.0.0.1"
MAX_PORT = 65535


class PageHandler(SimpleHTTPRequestHandler):
    """Serves static files, with the headers that allow threads and with the types that modules need."""

    # a system's own table of types may know neither
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self) -> None:
        """Add the headers by which a page isolates itself, without which browsers share no memory between threads."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        # a page that was built anew is seen at the next reload; what has not changed is not sent again
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""


class PageServer(ThreadingHTTPServer):
    """Serves each request in a thread; a browser that leaves in the middle of a file is no error."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of errors, unless the browser is gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def make_server(folder: StrPath, port: int) -> PageServer:
    """Return a server of a folder that listens on 127.0.0.1.

    Args:
        folder: with the page's files.
        port: 0 for any that is free; the server's `server_port` says which.

    Raises:
        ValueError: the port cannot be used.
    """
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"port={port}: give 0 to {MAX_PORT}, where 0 is any that is free")
    try:
        return PageServer((HOST, port), partial(PageHandler, directory=str(folder)))
    except OSError as error:
        raise ValueError(f"port {port}: cannot be used ({error.strerror or error}); give another (--port)") from None


def require_port(port: int) -> None:
    """Raise ValueError where `make_server` could not listen on a port now, before anything is made for it."""
    make_server(".", port).server_close()


def address(server: PageServer) -> str:
    """Return the address at which a browser finds a server's page."""
    return f"http://{HOST}:{server.server_port}/"
