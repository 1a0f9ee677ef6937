"""What commands owe the terminal and the shell: no control characters of strangers, quiet ends, right exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from mimotok.cli.main import app
from mimotok.io.codes_file import CodesFile, save_codes
from mimotok.io.terminal.streams import end_on_signals, excerpt, one_line, printable
from tests.helpers.codes_files import arrays_of_format_1
from tests.helpers.paths import PARITY, ROOT

pytestmark = pytest.mark.slow

ATTACK = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\r\x00\udce9"
CODES = CodesFile(np.zeros((2, 3), np.uint16), 2880, 24000, 25.0, (64, 32), "model", "0" * 64)
CONTROLS = {"Cc", "Cs", "Zl", "Zp"}


def assert_harmless(text: str, allowed: str = "\n\t") -> None:
    wrong = [c for c in text if c not in allowed and (unicodedata.category(c) in CONTROLS or c in "\u202e\u2066\u200f")]
    assert not wrong, wrong
    text.encode()


@given(st.text(st.characters(), max_size=60))
def test_printable_text_is_harmless_and_other_text_stays(text: str) -> None:
    assert_harmless(printable(text))
    assert_harmless(one_line(text), allowed="")
    assert printable(printable(text)) == printable(text)
    if text.isprintable():
        assert printable(text) == text


def test_what_is_escaped_can_still_be_read() -> None:
    assert printable("a\x1b[31mb\udce9ü 漢\u200d\n") == "a\\x1b[31mb\\udce9ü 漢\u200d\n"


@pytest.fixture
def attacked(tmp_path: Path) -> Path:
    """A folder whose files bear and hold control characters."""
    name = os.fsencode(tmp_path) + b"/\x1b]0;title\x07\x1b[2J\xe9.wav"
    with open(name, "wb") as file:
        file.write(b"no sound")
    save_codes(tmp_path / "x.npz", CODES)
    arrays = arrays_of_format_1(tmp_path / "x.npz")
    arrays["model"] = np.array([ATTACK[:-2], "0" * 64])
    np.savez(tmp_path / "x.npz", **arrays)
    return tmp_path


def run_app(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exited:
        app([os.fsdecode(str(argument)) for argument in arguments], prog_name="mimotok")
    return int(exited.value.code or 0)


def test_names_and_values_of_files_reach_the_terminal_escaped(
    attacked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (attacked / "m.jsonl").write_text('{"audio": "\\u001b[2J.wav", "id": "\\u001b[2J", "duration": "\\u001b[2J"}\n')
    model = PARITY / "a"
    bad = next(attacked.glob("*.wav"))
    calls = [
        (2, ["info", attacked / "x.npz"]),
        (2, ["encode", bad, attacked / "o.npz", "--model", model]),
        (2, ["encode", attacked, "--out-dir", attacked / "out", "--model", model]),
        (2, ["decode", attacked / "x.npz", attacked / "o.wav", "--model", model]),
        (2, ["tokenize", attacked / "m.jsonl", attacked / "tokens", "--model", model]),
        (2, ["encode", f"{ATTACK[:8]}.wav", attacked / "o.npz"]),
    ]
    for code, arguments in calls:
        assert run_app(*arguments) == code
        out, err = capsys.readouterr()
        assert_harmless(out)
        assert_harmless(err)
        assert out or err


def shell(line: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """A line of sh in which "$@" is `python -m mimotok` with the arguments."""
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "mimotok", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def codes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codes") / "x.npz"
    save_codes(path, CODES)
    return path


@pytest.mark.parametrize(
    ("line", "code"),
    [
        # the reader has gone: no error
        ('{ "$@"; echo $? >&2; } | true', "0"),
        ('{ "$@" 2>&1; echo $? >&3; } 3>&2 | true', "0"),
        # closed before it began
        ('"$@" >&-; echo $? >&2', "0"),
        ('"$@" >&- 2>&- <&-; code=$?; echo $code >&2', "0"),
        ('"$@" 2>&- >/dev/null; echo $? >&2', "0"),
        ('"$@" 2>/dev/full >/dev/null; echo $? >&2', "0"),
    ],
)
def test_output_that_nobody_reads_ends_quietly(codes_file: Path, line: str, code: str) -> None:
    for arguments in (["info", codes_file], ["--help"], ["--version"]):
        assert shell(line, *arguments).stderr.split() == [code]


def test_output_that_cannot_be_written_is_an_error(codes_file: Path) -> None:
    done = shell('"$@" >/dev/full', "info", codes_file)
    assert done.returncode == 2
    assert re.fullmatch(r"standard output: cannot be written \(.*\)\n", done.stderr)


@pytest.mark.parametrize("line", ['"$@" 2>&-', '"$@" 2>/dev/full', '"$@" >&- 2>&- <&-', '"$@" 2>&1 >&- | true; exit 2'])
def test_the_exit_code_shows_a_failure_that_no_message_can(tmp_path: Path, line: str) -> None:
    # an error that is found without torch, whose import takes seconds
    (tmp_path / "damaged.npz").write_text("no codes")
    done = shell(line, "info", tmp_path / "damaged.npz")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr


def test_files_do_not_take_the_numbers_of_closed_streams(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(24000) / 10), 24000)
    done = shell('"$@" >&- 2>&- <&-', "encode", tmp_path / "a.wav", tmp_path / "a.npz", "--model", PARITY / "a")
    assert done.returncode == 0
    assert shell('"$@"', "info", tmp_path / "a.npz").returncode == 0


@pytest.mark.parametrize("line", ['{ "$@"; echo $? >&2; } | true', '"$@" >&-; echo $? >&2'])
def test_a_stream_without_a_reader_ends(line: str) -> None:
    # more than a pipe holds, so that one who does not notice would go on
    sound = np.zeros(24000 * 10, "<i2").tobytes()
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "mimotok", "encode", "--stream", "--raw"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=sound, capture_output=True, env=environment, check=False)
    assert done.stderr.split() == [b"0"]


def test_an_ignored_hangup_stays_ignored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        end_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        end_on_signals()
        for number, code in ((signal.SIGHUP, 129), (signal.SIGTERM, 143)):
            with pytest.raises(SystemExit) as exited:
                signal.raise_signal(number)
            assert exited.value.code == code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("value", ["a\nb\x1b[2J", ["x"] * 9999, ValueError("y" * 9999), "", None])
def test_an_excerpt_is_one_short_printable_line(value: object) -> None:
    line = excerpt(value)
    assert 0 < len(line) <= 120
    assert line.isprintable()


POOL = """
from mimotok.io.terminal.workers import process_pool


def work(seconds):
    import time

    print("working", flush=True)
    time.sleep(seconds)


if __name__ == "__main__":
    with process_pool(1) as pool:
        pool.submit(work, 0).result()
        pool.submit(work, 600).result()
"""


def test_workers_end_with_the_process_that_started_them_even_if_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "pool.py")], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == [b"working\n"] * 2
    process.kill()
    # the pipe is closed when the last process that could write into it has gone
    assert process.communicate(timeout=500)[0] == b""
