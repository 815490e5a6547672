"""The host side of the attacks: lays out what they want, runs them in a tier, and looks whether anything was touched."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from incentive.verify.attacks_sandbox import ATTACKS, SECRET, TOKEN, Attack
from incentive.verify.sandbox import Limits, Program, Sandbox, Test, Verdict, open_sandbox

LIMITS = Limits(seconds=0.5, memory_mib=128, output_kib=16, processes=16, file_kib=256)
SETTLE_S = 3.0  # for what an attack left behind to go
SUBREAPER = 36  # prctl: orphans become our children, so that none can hide


@dataclass(frozen=True)
class Outcome:
    attack: Attack
    verdict: Verdict
    harm: tuple[str, ...]  # what was touched

    @property
    def succeeded(self) -> bool:
        return self.verdict.outcome != "fail" or bool(self.harm)


@dataclass
class Host:
    """Secrets, a listener, a bystander; `harm` says what of them is no longer as it was."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    calls: list[str] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    bystander: subprocess.Popen[bytes] | None = None
    home: Path = field(default_factory=Path.home)

    def __post_init__(self) -> None:
        os.environ["INCENTIVE_ATTACK_SECRET"] = self.token
        self.lay()
        self._listen()
        self.before = self._files()

    def lay(self) -> None:
        """Put everything that an attack may have harmed in its place, as at the start."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if not stat.S_ISSOCK(path.lstat().st_mode) or path.name != "socket":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.folder.mkdir(exist_ok=True)
        (self.folder / "secret").write_text(self.secret)
        (self.folder / "tests.json").write_text(json.dumps({"output": self.secret}))
        for path in self._marks():
            path.unlink()
        self._end_bystander()
        self.bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(36000)"])
        self.usual = self._bystander()

    @property
    def bystander_pid(self) -> int:
        assert self.bystander is not None
        return self.bystander.pid

    def _end_bystander(self) -> None:
        if self.bystander is not None:
            self.bystander.kill()
            self.bystander.wait()

    def _marks(self) -> list[Path]:
        places = (self.home, Path("/tmp"), Path("/dev/shm"), Path("/sys/fs/cgroup"))
        return [path for place in places for path in place.glob(f"mark-{self.token}*")]

    def _listen(self) -> None:
        self.sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port = self.sockets[0].getsockname()[1]
        with contextlib.suppress(OSError):
            self.sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", self.port))
        unix, abstract, datagram = (socket.socket(socket.AF_UNIX, k) for k in (1, 1, 2))
        unix.bind(str(self.folder / "socket"))
        self.abstract = f"incentive-{self.token[:12]}"
        abstract.bind(f"\0{self.abstract}")
        datagram.bind(f"\0{self.abstract}-datagram")
        unix.listen()
        abstract.listen()
        self.sockets += [udp, unix, abstract, datagram]
        for s in self.sockets:
            threading.Thread(target=self._hear, args=(s,), daemon=True).start()

    def _hear(self, s: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                if s.type == socket.SOCK_DGRAM:
                    s.recv(1)
                else:
                    s.accept()[0].close()
                self.calls.append(str(s.getsockname()))

    def _bystander(self) -> tuple[Any, ...]:
        process = psutil.Process(self.bystander_pid)
        stopped = process.status() == psutil.STATUS_STOPPED
        return (
            process.nice(),
            process.cpu_affinity(),
            process.rlimit(psutil.RLIMIT_CPU),
            os.getpgid(process.pid),
            stopped,
        )

    def _files(self) -> dict[str, Any]:
        """What lies in the folder, to the last attribute, and what bears our mark elsewhere."""
        found: dict[str, Any] = {}
        for path in [self.folder, *sorted(self.folder.rglob("*"))]:
            s = path.lstat()
            own = (s.st_mode, s.st_size, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_nlink)
            found[str(path)] = (own, path.read_bytes() if stat.S_ISREG(s.st_mode) else None, os.listxattr(path, follow_symlinks=False))  # fmt: skip
        found |= {str(path): "a mark" for path in self._marks()}
        found["library"] = (os.stat(os.__file__).st_size, os.stat(os.__file__).st_mtime_ns)
        with contextlib.suppress(OSError):
            found["core pattern"] = Path("/proc/sys/kernel/core_pattern").read_text()
        found["name"] = socket.gethostname()
        return found

    def fill(self, text: str) -> str:
        """A source with this host's names in it."""
        names = {
            "FILE": self.folder / "secret", "TESTS": self.folder / "tests.json", "SOCK": self.folder / "socket", "DIR": self.folder,
            "ABSTRACT": self.abstract, "HOME": self.home, "PORT": self.port, "PID": os.getpid(),
            "VICTIM": self.bystander_pid, "TOKEN": self.token, "PACKAGE": Path(__file__).parents[2],
        }  # fmt: skip
        # whole words only: RLIMIT_X, PRIO_PROCESS and their like stay
        return re.sub(rf"(?<![A-Z_])({'|'.join(names)})(?![A-Z_])", lambda m: str(names[m[1]]), text)

    def program(self, attack: Attack) -> Program:
        want = {TOKEN: secrets.token_hex(16), SECRET: self.secret}.get(attack.want, attack.want)
        if attack.entry is None:
            return Program(self.fill(attack.source), (Test("1\n", str(want)),))
        return Program(self.fill(attack.source), (Test([1], want), Test([2], want)), attack.entry)

    def harm(self) -> list[str]:
        """What has changed since the last look."""
        now, found = self._files(), []
        for name in sorted(now.keys() | self.before.keys()):
            if now.get(name) != self.before.get(name):
                found.append(f"{name} changed")
        found += [f"a call to {c}" for c in self.calls] + [f"signal {s}" for s in self.signals]
        self.calls.clear()
        self.signals.clear()
        if self.bystander is None or self.bystander.poll() is not None:
            found.append("the bystander died")
        elif self._bystander() != self.usual:
            found.append("the bystander was changed")
        if found:
            self.lay()
            self.before = self._files()
        return found

    def close(self) -> None:
        for s in self.sockets:
            s.close()
        self._end_bystander()
        os.environ.pop("INCENTIVE_ATTACK_SECRET", None)


@contextlib.contextmanager
def host() -> Iterator[Host]:
    """A host with its secrets laid out; signals that it can catch are noted, and orphans are its own."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    caught = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGIO)
    with tempfile.TemporaryDirectory(prefix="incentive-attacks-") as folder:
        here = Host(Path(folder))
        old = {s: signal.signal(s, lambda number, _: here.signals.append(number)) for s in caught}
        try:
            yield here
        finally:
            for s, handler in old.items():
                signal.signal(s, handler)
            here.close()
            ctypes.CDLL(None).prctl(SUBREAPER, 0, 0, 0, 0)


def descendants(but: int) -> int:
    """Processes below this one, the dead among them reaped."""
    living = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.pid != but and child.status() != psutil.STATUS_ZOMBIE:
                living += 1
            elif child.ppid() == os.getpid() and child.pid != but:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)
    return living


def run(tier: str, attacks: Iterable[Attack] = ATTACKS, limits: Limits = LIMITS) -> Iterator[Outcome]:
    """Every attack in the tier, one after the other; the machine is looked at after each and once more at the end."""
    right = Program("def f(x): return x + 1", (Test([1], 2),), "f")
    with host() as here, open_sandbox(tier, workers=1, limits=limits) as box:
        before = descendants(here.bystander_pid)
        box.run([("right", right)])
        usual = descendants(here.bystander_pid)
        for attack in attacks:
            yield _one(attack, box, here, usual)
        good = box.run([("right", right)])["right"]
        box.close()
        left = _settled(here, before) - before
        harm = [*here.harm(), *([f"{left} processes left at the end"] if left > 0 else [])]
        calm = Attack("afterwards: a right program passes", "host", right.source, 2)
        verdict = Verdict("fail" if good.outcome == "pass" else "pass", 0, 1, "the tier still works", good.seconds)
        yield Outcome(calm, verdict, tuple(harm))


def _one(attack: Attack, box: Sandbox, here: Host, usual: int) -> Outcome:
    verdict = box.run([("x", here.program(attack))])["x"]
    left = _settled(here, usual)
    harm = here.harm() + ([f"{left - usual} processes left"] if left > usual else [])
    return Outcome(attack, verdict, tuple(harm))


def _settled(here: Host, usual: int) -> int:
    until = time.monotonic() + SETTLE_S
    while (left := descendants(here.bystander_pid)) > usual and time.monotonic() < until:
        time.sleep(0.02)
    return left
