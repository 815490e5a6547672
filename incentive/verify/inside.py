"""What runs in a jail: a warm interpreter that starts one process a program. Standard library only.

    worker (outside) <-> warm -> keeper -> program

The warm process reads one byte a program and forks; it never sees a program, so nothing of one is in the memory that the
next inherits. The keeper passes one input at a time on and one result back, and ends the program by the clock. The
program's process puts up its walls before it reads its source, and holds two pipes, both to its keeper.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import struct
import time

from incentive.verify import kernel, program
from incentive.verify.wire import END, FUNCTION, READY, SCRIPT, Gone, Walls, read_frame, write_frame

TICK_S = 0.02
INSIDE_UID = 1000
COMMON = (  # what programs import; loaded once
    "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools",
    "heapq", "itertools", "math", "operator", "queue", "re", "statistics", "string", "typing",
)  # fmt: skip


# --- the warm process ------------------------------------------------------------------------------------------------


def main(settings: str) -> None:
    """Serve programs from stdin to stdout until stdin ends. `settings`: JSON of Limits, and the tier's walls."""
    told = json.loads(settings)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    for name in COMMON:
        __import__(name)
    rules = None
    if told["readable"] is not None:
        rules = kernel.landlock_rules(told["readable"])
        kernel.drop_capabilities()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    with open("/proc/self/statm") as file:
        own = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = told["limits"]
    output, files = limits["output_kib"] << 10, limits["file_kib"] << 10
    walls = Walls(told["namespaces"], rules, limits["seconds"], own + (limits["memory_mib"] << 20), output, files, limits["processes"])  # fmt: skip
    gc.collect()
    gc.freeze()
    os.write(1, b"!")  # ready
    while (mode := os.read(0, 1)) in (FUNCTION, SCRIPT):
        pid = os.fork()
        if pid == 0:
            _keeper(mode, walls)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            write_frame(1, json.dumps(["down", f"the keeper ended with {status}", True]).encode())


# --- the keeper ------------------------------------------------------------------------------------------------------


def _keeper(mode: bytes, walls: Walls) -> None:
    """Start the program, serve it, end it. Never returns; status 0 if all results went out."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        stdin, stdout = os.memfd_create("stdin"), os.memfd_create("stdout")
        (there, give), (take, back) = os.pipe(), os.pipe()
        if walls.namespaces:
            uid, gid = os.getuid(), os.getgid()
            kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
            kernel.map_self(uid, gid, INSIDE_UID)
        pid = os.fork()
        if pid == 0:
            program.start(mode, walls, there, back, stdin, stdout)
        os.close(there)
        os.close(back)
        watch = _Watch(pid, walls)
        try:
            if (said := _read_watched(take, 4096, watch)) != READY:  # before the program's source was read
                raise RuntimeError(f"a wall does not stand: {said.decode('utf-8', 'replace')}")
            _send("ready", "")
            (_serve if mode == FUNCTION else _serve_script)(walls, watch, give, take, stdin, stdout)
        finally:
            watch.end()
        os._exit(0)
    except Gone:
        os._exit(3)
    except BaseException as error:
        os.write(2, f"keeper: {type(error).__name__}: {error}\n".encode())
        os._exit(4)


def _send(kind: str, text: str, suspicious: bool = False) -> None:
    write_frame(1, json.dumps([kind, text, suspicious]).encode())


def _serve(walls: Walls, watch: _Watch, give: int, take: int, stdin: int, stdout: int) -> None:
    """Source, then inputs one by one; a result for each. Ends early where the program does."""
    os.close(stdin)
    os.close(stdout)
    largest = walls.output + 4096
    frame = read_frame(0)
    while frame != END:
        watch.begin()
        try:
            _write_watched(give, frame, watch)
            result = _read_watched(take, largest, watch)
        except _Over as over:
            _send("limit", str(over), over.suspicious)
            return
        _send("frame", result.decode("utf-8", "replace"))
        frame = read_frame(0)


def _serve_script(walls: Walls, watch: _Watch, give: int, take: int, stdin: int, stdout: int) -> None:
    """Source and stdin; what the program wrote to stdout when it has ended."""
    source, text = read_frame(0), read_frame(0)
    view = memoryview(text)
    while view:
        view = view[os.write(stdin, view) :]
    os.lseek(stdin, 0, os.SEEK_SET)
    watch.begin()
    try:
        _write_watched(give, source, watch)
        status = watch.exit()
    except _Over as over:
        _send("limit", str(over), over.suspicious)
        return
    os.close(take)
    size = os.fstat(stdout).st_size
    if status:
        _send("error", _how(status), status < 0)
    elif size > walls.output:
        _send("limit", f"more than {walls.output >> 10} KiB of output")
    else:
        _send("text", os.pread(stdout, size, 0).decode("utf-8", "replace"))


def _how(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


class _Over(Exception):
    """The program has ended, or was ended; suspicious if neither by itself nor by its limits."""

    def __init__(self, why: str, suspicious: bool = False):
        super().__init__(why)
        self.suspicious = suspicious


class _Watch:
    """Keeps a program to its time and its threads. Time is CPU time, so that a busy machine makes no answer wrong;
    one that sleeps is ended at three times that by the clock, and a second."""

    def __init__(self, pid: int, walls: Walls):
        self.pid, self.walls = pid, walls
        self.pidfd = os.pidfd_open(pid)
        self.stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        self.tick = 1.0 / os.sysconf("SC_CLK_TCK")
        self.status: int | None = None
        self.begin()

    def _used(self) -> tuple[float, int]:
        """Seconds of CPU so far, and threads."""
        try:
            fields = os.pread(self.stat, 1024, 0).rpartition(b") ")[2].split()
        except ProcessLookupError:
            return 0.0, 0
        return (int(fields[11]) + int(fields[12])) * self.tick, int(fields[17])

    def begin(self) -> None:
        self.cpu, self.wall = self._used()[0], time.monotonic()

    def check(self) -> None:
        cpu, tasks = self._used()
        walls = self.walls
        if cpu - self.cpu > walls.seconds or time.monotonic() - self.wall > 3 * walls.seconds + 1:
            raise _Over(f"over {walls.seconds:g} s")
        if tasks > walls.tasks:
            raise _Over(f"more than {walls.tasks} threads")

    def wait(self, fd: int | None, writing: bool = False) -> bool:
        """Wait until `fd` is ready (True) or the program is gone (False), looking at its limits meanwhile."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if fd is not None:
            poll.register(fd, select.POLLOUT if writing else select.POLLIN)
        while True:
            ready = {found for found, _ in poll.poll(TICK_S * 1000)}
            if fd in ready:
                return True
            if self.pidfd in ready:
                return False
            self.check()

    def exit(self) -> int:
        self.wait(None)
        return self.end()

    def end(self) -> int:
        """Kill what is left; with it goes its whole pid namespace, where it has one. How it ended, if by itself."""
        if self.status is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def gone(self) -> _Over:
        status = self.end()
        return _Over(_how(status), status < 0)


def _write_watched(fd: int, frame: bytes, watch: _Watch) -> None:
    os.set_blocking(fd, False)
    view = memoryview(struct.pack("=I", len(frame)) + frame)
    while view:
        if not watch.wait(fd, writing=True):
            raise watch.gone()
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            raise _Over("it closed its input") from None


def _read_watched(fd: int, largest: int, watch: _Watch) -> bytes:
    def exactly(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not watch.wait(fd):
                raise watch.gone()
            part = os.read(fd, min(size - len(data), 1 << 16))
            if not part:
                watch.wait(None)
                raise watch.gone()
            data += part
        return bytes(data)

    size = struct.unpack("=I", exactly(4))[0]
    if size > largest:
        raise _Over(f"a result of {size} bytes")
    return exactly(size)
