"""A `python` that is warm: its processes are forks of one that has imported torch and Lightning already.

To import what `python -m train` needs takes eight seconds of CPU, and many tests start such a process. A server is
forked from pytest when all test modules are imported and before the first test. `warm_python()` names a small script
that stands in a command where `python` stands else: it sends its arguments, folder, environment and standard streams to
the server, which forks a process that runs them as `python` would. The script ends with the exit code or the signal of
that process.

A test about imports, signals, closed streams or variables that Python reads when it starts needs `sys.executable`.
"""

from __future__ import annotations

import array
import atexit
import faulthandler
import gc
import json
import logging
import multiprocessing.util
import os
import random
import runpy
import secrets
import signal
import socket
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# what multiprocessing and the standard library leave to the end of a process, of which forks need their own
_private: Any = multiprocessing.util

LAUNCHER = """#!{python} -IS
import array, json, os, socket, sys
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
streams = array.array("i", (0, 1, 2))
connection.sendmsg([len(request).to_bytes(4, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
connection.sendall(request)
# from now on the streams are the other process's alone
for number in streams:
    os.close(number)
code = int(b"".join(iter(lambda: connection.recv(16), b"")) or b"255")
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""

_started: list[WarmPython] = []


def warm_python() -> str:
    """Return the path of the launcher; that of the real interpreter where no server runs."""
    return str(_started[-1].path) if _started else sys.executable


def start_warm_python() -> WarmPython | None:
    """Start the server, where forks of a process that holds torch are safe and its socket's path is not too long."""
    if sys.platform != "linux" or len(tempfile.gettempdir()) > 70:
        return None
    return WarmPython()


class WarmPython:
    """The server, from its making to `close`, and the launcher's path."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        self.path = self.folder / "python"
        address = str(self.folder / "socket")
        self.path.write_text(LAUNCHER.format(python=sys.executable, address=address))
        self.path.chmod(0o700)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address)
            listening.listen(64)
            # the memory that forks share stays shared, and no collection looks through all that was imported
            gc.collect()
            gc.freeze()
            self.process = os.fork()
            if self.process == 0:
                _serve(listening)
        _started.append(self)

    def close(self) -> None:
        """End the server."""
        _started.remove(self)
        gc.unfreeze()
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()


def _serve(listening: socket.socket) -> NoReturn:
    """Fork a process for each request, which answers it. One that fails takes nobody else with it."""
    # these processes end by themselves, and nobody asks how
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> NoReturn:
    """Run in a fork what the connection asks for, and send the exit code when it ends."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        words, folder, environment, streams = _receive(connection)
        process = os.fork()
        if process == 0:
            _run(words, folder, environment, streams)
        for number in streams:
            os.close(number)
        _, status = os.waitpid(process, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    finally:
        os._exit(0)


def _receive(connection: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    """Read arguments, folder, environment and the descriptors of the standard streams."""
    size, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(12))
    streams = array.array("i")
    for _, _, data in ancillary:
        streams.frombytes(data)
    request = bytearray()
    while len(request) < int.from_bytes(size, "little"):
        request += connection.recv(1 << 16)
    words, folder, environment = json.loads(request)
    return words, folder, environment, streams.tolist()


def _run(words: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> NoReturn:
    """Run `python WORDS` in this process, a fork, and end it."""
    code = 255
    try:
        _become_fresh(folder, environment, streams)
        code = _exit_code(words)
        # what an interpreter does at its end
        threading_private: Any = threading
        threading_private._shutdown()
        exits: Any = atexit
        exits._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _become_fresh(folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """Take away what pytest has put in place, and chance that all forks would share."""
    for caught in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(caught, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.disable()
    for target, number in enumerate(streams):
        os.dup2(number, target)
    os.closerange(3, 1 << 12)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    exits: Any = atexit
    exits._clear()
    atexit.register(_private._exit_function)
    logging.getLogger().handlers.clear()
    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.manual_seed(secrets.randbits(63))
        torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))


def _exit_code(words: list[str]) -> int:
    option, *rest = words
    try:
        if option == "-m":
            sys.path.insert(0, os.getcwd())
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif option == "-c":
            sys.path.insert(0, "")
            sys.argv = ["-c", *rest[1:]]
            main = ModuleType("__main__")
            sys.modules["__main__"] = main
            exec(compile(rest[0], "<string>", "exec"), vars(main))
        else:
            sys.path.insert(0, str(Path(option).resolve().parent))
            sys.argv = words
            runpy.run_path(option, run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return int(ended.code or 0) & 255
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
