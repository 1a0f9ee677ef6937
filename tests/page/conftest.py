"""A page for a tiny model, whose sound is noise and whose codes are as good as any."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from mimotok import Tokenizer
from mimotok.page.runtime import find_runtime


class Built(NamedTuple):
    tokenizer: Tokenizer
    folder: Path


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The folder of onnxruntime-web."""
    try:
        return find_runtime()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built(runtime: Path, windowed_export: tuple[Tokenizer, Path], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A model and its page. A build that was cut short after the export, which takes long, goes on."""
    from mimotok.page import build

    tokenizer, exported = windowed_export
    page = tmp_path_factory.mktemp("page")
    # the page has no stream graphs
    shutil.copytree(exported, page / build.MODEL_FOLDER, ignore=shutil.ignore_patterns("*stream*"))
    (page / build.UNFINISHED_NAME).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "export_onnx", lambda *_, **__: pytest.fail("exported anew"))
        build.build_page(tokenizer, page, runtime=runtime)
    return Built(tokenizer, page)
