"""`python -m train`: LightningCLI over the two stages (fit, validate), and the tools around them (export, transcribe)."""

from __future__ import annotations

import sys

from train.export import export_command
from train.transcribe import transcribe_command

TOOLS = {"export": export_command, "transcribe": transcribe_command}


def main() -> None:
    """Dispatches on the first word: a tool, or one of Lightning's subcommands."""
    if len(sys.argv) > 1 and sys.argv[1] in TOOLS:
        TOOLS[sys.argv[1]](sys.argv[2:])
        return
    from train.cli import run_lightning

    run_lightning()


if __name__ == "__main__":
    main()
