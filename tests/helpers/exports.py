"""What tests of the command line's exports share."""

from __future__ import annotations

import pytest

from mimotok.cli.main import app


def command(*arguments: object) -> int:
    """Runs the command line in this process; returns its exit code."""
    with pytest.raises(SystemExit) as exited:
        app([str(argument) for argument in arguments], prog_name="mimotok")
    return int(exited.value.code or 0)
