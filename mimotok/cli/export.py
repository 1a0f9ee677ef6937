"""The command `mimotok export`, which writes a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mimotok.cli.common import Model, Revision, make_tokenizer, one_line_errors

FORMATS = ("onnx",)


def export(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.", show_default=False)],
    target: Annotated[str, typer.Option("--format", help=f"{' or '.join(FORMATS)}.")] = "onnx",
    n_q: Annotated[int | None, typer.Option("--n-q", help="Codebooks to use; the model's default if left out.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit products in the decoder; codes stay exact.")] = False,
    streaming: Annotated[bool, typer.Option("--streaming", help="Also write graphs of a stream's steps.")] = False,
    model: Model = None,
    revision: Revision = None,
) -> None:
    """Write a model as ONNX graphs, with the lines of Python that run them on numpy and onnxruntime alone."""
    with one_line_errors():
        if target not in FORMATS:
            raise ValueError(f"format={target}: give {' or '.join(FORMATS)}")
        from mimotok.io.files import require_new

        require_new(folder)  # an error is reported before a model is loaded
        from mimotok.export.onnx import export_onnx

        export_onnx(make_tokenizer(model, revision, "cpu", "float32"), folder, n_q=n_q, int8=int8, streaming=streaming)
