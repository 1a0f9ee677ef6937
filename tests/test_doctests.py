"""The examples in the docstrings of what users import run, on a tiny model where they need none of their own."""

from __future__ import annotations

import doctest
import importlib
import inspect
from typing import Any

import pytest
import torch

from tests.helpers.models import STREAMABLE, make_tokenizer
from tests.helpers.paths import ROOT

FACES = ("mimotok", "mimotok.streaming", "mimotok.lm", "mimotok.corpus", "mimotok.hf")
# a class documents its results as a whole: these hold values, or stand beside what has the example
WITHOUT_EXAMPLE = {"Layout", "Duplex", "Positions", "SpecialIds", "Concatenated", "SequenceBatch"}
NEEDS = {"mimotok.hf": "transformers", "mimotok.corpus": "pyarrow"}


def public_objects() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for face in FACES:
        if face in NEEDS:
            try:
                importlib.import_module(NEEDS[face])
            except ImportError:
                continue
        module = importlib.import_module(face)
        names = getattr(module, "__all__", None) or [name for name in vars(module) if name.startswith("Mimo")]
        found |= {name: getattr(module, name) for name in names}
    return found


OBJECTS = public_objects()


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = OBJECTS | {"torch": torch, "tokenizer": make_tokenizer(STREAMABLE)}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    examples = 0
    for test in doctest.DocTestFinder(recurse=True).find(OBJECTS[name], name, globs=names, module=False):
        examples += len(test.examples)
        runner.run(test)
    assert runner.failures == 0
    assert examples or name in WITHOUT_EXAMPLE or name.endswith("Output")


@pytest.mark.parametrize("name", sorted(name for name, value in OBJECTS.items() if inspect.isfunction(value)))
def test_public_functions_document_arguments_and_errors(name: str) -> None:
    text = inspect.getdoc(OBJECTS[name]) or ""
    assert "Args:" in text
    assert "Raises:" in text
    assert "Returns:" in text or "Yields:" in text or inspect.signature(OBJECTS[name]).return_annotation == "None"
    for parameter in inspect.signature(OBJECTS[name]).parameters:
        assert f"    {parameter}: " in text, parameter
