"""Standard streams of commands: printable text, one-line errors, quiet ends and exit codes."""

from __future__ import annotations

import io
import math
import os
import re
import reprlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

USER_ERROR = 2
INTERRUPTED = 130
ERROR_LENGTH = 500  # characters: some libraries put whole tables into their messages
GRACE = 5  # seconds that a process of a pool has to clear away what it leaves behind
# as shells name the end by a signal
_SIGNALS = {signal.SIGTERM: 143}
if hasattr(signal, "SIGHUP"):
    _SIGNALS[signal.SIGHUP] = 129

# Control characters (a terminal obeys them: colours, titles, keys), those that turn the direction of text, line
# separators and lone surrogates, which cannot be written at all. Newline and tab may pass.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: object) -> str:
    r"""Return text that is safe to print: control characters become escapes such as \x1b."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), str(text))


def one_line(message: object) -> str:
    """Return a message, such as an error, as one printable line."""
    return printable(" ".join(str(message).split())) or type(message).__name__


def excerpt(value: object, limit: int = 120) -> str:
    """Return a value out of a file, or another library's error about one, as a line that a message can quote."""
    line = one_line(value)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def error_line(error: BaseException) -> str:
    """Return an error, of whatever library, as one printable line of bounded length."""
    return excerpt(error, ERROR_LENGTH)


def shortened(value: Any) -> str:
    """Return a value as it is written in Python, cut to a length that a message bears."""
    if isinstance(value, int) and value.bit_length() > 128:
        # Python refuses to write numbers of thousands of digits
        return f"a number of about {int(value.bit_length() * math.log10(2))} digits"
    return reprlib.repr(value)[:200]


def say(text: object = "") -> None:
    """Print lines on standard output."""
    print(printable(text))


def warn(program: str, message: object) -> None:
    """Print one line on standard error, with the program's name before it."""
    # print, since rich moves its bar aside only for what goes through sys.stderr
    print(f"{program}: {one_line(message)}", file=sys.stderr)


@contextmanager
def errors_in_one_line(program: str, *, interrupted: str = "interrupted") -> Iterator[None]:
    """Turn a user's error into one line on standard error and exit code 2, and Ctrl-C into one line and 130.

    Args:
        program: name that the line begins with.
        interrupted: what the line says after Ctrl-C.

    Raises:
        SystemExit: after a ValueError, OSError, ImportError or MemoryError, and after Ctrl-C.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError) as error:
        warn(program, error)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        warn(program, interrupted)
        sys.exit(INTERRUPTED)


def _end(number: int, _: object) -> NoReturn:
    # once is enough: a second one must not interrupt the clearing away
    signal.signal(number, signal.SIG_IGN)
    sys.exit(_SIGNALS[signal.Signals(number)])


def _end_worker(number: int, frame: object) -> NoReturn:
    # The loop of a pool takes the exception for the result of a task. It may then wait for a lock for ever, since the
    # exception can also strike between taking a lock and the block that gives it back.
    if hasattr(signal, "alarm"):
        signal.alarm(GRACE)
    _end(number, frame)


def end_on_signals(end: Callable[[int, Any], NoReturn] = _end) -> None:
    """Let SIGTERM and SIGHUP end this process as an exception does, so that what it leaves behind is cleared away.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored.

    Args:
        end: the handler, which raises the exception.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def begin_worker() -> None:
    """Let a process of a pool end on signals, and when the process that started it has gone, even if it was killed.

    After a signal it has a few seconds to clear away what it leaves behind.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # last: until here a signal ends the process at once, with nothing to clear away and nothing to say
    end_on_signals(_end_worker)


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # the main thread waits for work that will never come
        os._exit(INTERRUPTED)


def run_command(main: Callable[[], Any]) -> NoReturn:
    """Run a command line's main function, and exit with its code.

    Nobody may be listening: a reader of standard output that has gone ends nothing and is no error, nor is a closed or
    failing standard error. Output that cannot be written, as on a full disk, is an error.
    """
    _open_streams()
    end_on_signals()
    code: Any = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    if isinstance(code, str):
        print(one_line(code), file=sys.stderr)
        code = 1
    try:
        sys.stdout.flush()
    except OSError as error:
        print(f"standard output: cannot be written ({error.strerror or error})", file=sys.stderr)
        code = code or USER_ERROR
        raw = getattr(sys.stdout.buffer, "raw", None)
        if isinstance(raw, _Listened):
            # python tries once more at its exit, and would complain
            raw.passed = OSError
    sys.stderr.flush()
    sys.exit(code)


class _Listened(io.FileIO):
    """Standard output or error; writes that fail because no one reads are ignored."""

    def __init__(self, number: int, passed: type[OSError]) -> None:
        super().__init__(number, "wb", closefd=False)
        self.passed = passed

    def write(self, data: Any) -> int:
        """Write as FileIO does; return that all was written where no one reads."""
        try:
            return super().write(data)
        except self.passed:
            return len(data)


_closed_output = False


def _open_streams() -> None:
    """Replace Python's own standard streams by streams that tolerate the loss of their reader."""
    global _closed_output
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # opened on /dev/null before a file gets this number, and with it what is printed
            os.open(os.devnull, os.O_RDWR)
            _closed_output |= number == 1
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    for name, number, passed in (("stdout", 1, BrokenPipeError), ("stderr", 2, OSError)):
        stream: Any = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and _number(stream) == number):
            setattr(sys, name, _text_stream(stream, number, passed))


def _number(stream: Any) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _text_stream(before: Any, number: int, passed: type[OSError]) -> io.TextIOWrapper:
    encoding = getattr(before, "encoding", None) or "utf-8"
    errors = getattr(before, "errors", None) or "strict"
    lines = number == 2 or os.isatty(number)
    if before is not None:
        before.flush()
    return io.TextIOWrapper(io.BufferedWriter(_Listened(number, passed)), encoding, errors, line_buffering=lines)


def binary_output() -> BinaryIO:
    """Return standard output as bytes, for an endless stream. Raises BrokenPipeError when its reader goes."""
    if _closed_output:
        raise BrokenPipeError
    raw = getattr(sys.stdout.buffer, "raw", None)
    if isinstance(raw, _Listened):
        return open(raw.fileno(), "wb", closefd=False)
    return sys.stdout.buffer
