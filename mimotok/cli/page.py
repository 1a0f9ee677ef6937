"""mimotok page: the codec in a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mimotok.cli.common import Model, Revision, make_tokenizer, one_line_errors
from mimotok.io.terminal.streams import say

DEFAULT_PORT = 8000


def page(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page, made or updated; one in the user's cache if left out.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve it on 127.0.0.1, or only make it.")] = True,
    port: Annotated[int, typer.Option(help="Of the server; 0 for any that is free.")] = DEFAULT_PORT,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    n_q: Annotated[int | None, typer.Option("--n-q", help="Most codebooks to offer; all if left out.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit products in the decoder: a smaller download.")] = False,
    runtime: Annotated[
        Path | None, typer.Option(help="Folder of the npm package onnxruntime-web; npm fetches it if left out.")
    ] = None,
    model: Model = None,
    revision: Revision = None,
) -> None:
    """Make a page on which anyone hears the model in a browser, and serve it on this machine."""
    with one_line_errors():
        if not serve and (open_browser or port != DEFAULT_PORT):
            raise ValueError(
                f"{'--open' if open_browser else '--port'}: nothing is served with --no-serve; leave one out"
            )
        from mimotok.page.files import cache_folder
        from mimotok.page.runtime import find_runtime

        find_runtime(runtime)  # an error is reported before a model is loaded
        from mimotok.page.build import build_page
        from mimotok.page.serve import address, make_server, require_port

        if serve:
            require_port(port)
        tokenizer = make_tokenizer(model, revision, "cpu", "float32")
        offered = "" if n_q is None else f"-{n_q}"
        kind = "-int8" if int8 else ""
        folder = out or cache_folder() / "page" / f"{tokenizer.weights_sha256[:16]}{offered}{kind}"
        build_page(tokenizer, folder, n_q=n_q, int8=int8, runtime=runtime)
        if not serve:
            say(f"{folder}: put these files on any web server")
            return
        with make_server(folder, port) as server:
            say(f"{address(server)} (Ctrl-C ends it)")
            # a log file shows the address at once, not when the server ends
            sys.stdout.flush()
            if open_browser:
                import webbrowser

                webbrowser.open(address(server))
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                # the only way to end a server is no error
                return
