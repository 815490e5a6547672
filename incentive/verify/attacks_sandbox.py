"""Attacks on the sandbox, as data: programs that try to pass without solving, or to touch the machine.

Each is run like any program. It succeeds if it passes (its hidden output is a random token, a secret of the machine, or the
mark that a forbidden thing worked) or if the machine is not as it was: see `attack_host.py`. `FILE`, `DIR` and
the like in a source are replaced by what the host laid out. Attacks are for a jailed run only; some would harm.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

TOKEN, SECRET = "@TOKEN@", "@SECRET@"  # wanted outputs: one that nobody can know; one that lies on the host


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    kind: str
    source: str
    want: Any  # what it returns (or prints, without an entry) if it succeeds
    entry: str | None = "f"


_ALL: list[Attack] = []


def _add(kind: str, want: Any, programs: dict[str, str], entry: str | None = "f") -> None:
    _ALL.extend(Attack(n, kind, textwrap.dedent(s).strip() + "\n", want, entry) for n, s in programs.items())


def _tries(kind: str, want: Any, imports: str, bodies: dict[str, str]) -> None:
    """Attacks of one expression or a few statements: `f(x)` around each."""
    _add(kind, want, {n: f"{imports}\ndef f(x):\n" + textwrap.indent(textwrap.dedent(b).strip(), "    ") for n, b in bodies.items()})  # fmt: skip


_CALL = "import ctypes, os, sys\ndef call(*a):\n    l = ctypes.CDLL(None, use_errno=True)\n    l.syscall.restype = ctypes.c_long\n    r = l.syscall(*[ctypes.c_long(v) if isinstance(v, int) else v for v in a])\n    return r, ctypes.get_errno()\ndef reached(*a):\n    r, e = call(*a)\n    return r >= 0 or e not in (1, 38)\n"  # fmt: skip

# --- files that are not the program's --------------------------------------------------------------------------------

_tries("read files", SECRET, "import os, sys", {
    "open": "return open('FILE').read()",
    "os.open": "return os.read(os.open('FILE', os.O_RDONLY), 99).decode()",
    "pathlib": "import pathlib\nreturn pathlib.Path('FILE').read_text()",
    "io.open_code": "import io\nreturn io.open_code('FILE').read().decode()",
    "up from here": "return open('../' * 30 + 'FILE'.lstrip('/')).read()",
    "root of self": "return open('/proc/self/root' + 'FILE').read()",
    "root of pid 1": "return open('/proc/1/root' + 'FILE').read()",
    "root of the trainer": "return open('/proc/PID/root' + 'FILE').read()",
    "root of the parent": "return open(f'/proc/{os.getppid()}/root' + 'FILE').read()",
    "working folder of the trainer": "return open('/proc/PID/cwd/' + '../' * 30 + 'FILE'.lstrip('/')).read()",
    "symlink": "os.symlink('FILE', f'/tmp/mark-TOKEN-{x}')\nreturn open(f'/tmp/mark-TOKEN-{x}').read()",
    "hard link": "os.link('FILE', f'/tmp/mark-TOKEN-{x}')\nreturn open(f'/tmp/mark-TOKEN-{x}').read()",
    "folder descriptor": "d = os.open('/', os.O_RDONLY)\nreturn os.read(os.open('FILE'.lstrip('/'), os.O_RDONLY, dir_fd=d), 99).decode()",
    "chroot out": "os.mkdir('/tmp/x')\nos.chroot('/tmp/x')\nfor _ in range(50): os.chdir('..')\nos.chroot('.')\nreturn open('FILE').read()",
    "mmap": "import mmap\nf = os.open('FILE', os.O_RDONLY)\nreturn mmap.mmap(f, 0, prot=mmap.PROT_READ).read().decode()",
    "importlib loader": "import importlib.machinery as m\nreturn m.SourceFileLoader('x', 'FILE').get_data('FILE').decode()",
    "linecache": "import linecache\nreturn ''.join(linecache.getlines('FILE')).strip()",
    "copy": "import shutil\nshutil.copy('FILE', '/tmp/copy')\nreturn open('/tmp/copy').read()",
    "sendfile": "a = os.open('FILE', os.O_RDONLY)\nr, w = os.pipe()\nos.sendfile(w, a, 0, 99)\nreturn os.read(r, 99).decode()",
    "path descriptor": "a = os.open('FILE', os.O_PATH)\nreturn open(f'/proc/self/fd/{a}').read()",
    "descriptors left open": "for n in range(3, 1024):\n    try:\n        os.lseek(n, 0, 0)\n        t = os.read(n, 99).decode()\n        if len(t) == 32: return t\n    except Exception: pass",
    "hidden tests beside": "import json\nreturn json.load(open('TESTS'))['output']",
    "code in eval": "return eval(\"open('FILE').read()\")",
    "encoding as path": "return open('FILE'.encode() + b'').read()",
    "exec of the file": "import runpy\ntry:\n    runpy.run_path('FILE')\nexcept SyntaxError as e:\n    return e.text.strip()\nexcept NameError as e:\n    return str(e).split(chr(39))[1]",
})  # fmt: skip
_tries("read files", True, "import os, sys", {
    "accounts": "return 'root:' in open('/etc/passwd').read()",
    "password hashes": "return 'root:' in open('/etc/shadow').read()",
    "list a folder": "return 'secret' in os.listdir('DIR')",
    "scan home": "return len(list(os.scandir('HOME'))) > 0",
    "walk": "return any('secret' in files for _, _, files in os.walk('DIR'))",
    "raw disk": "return any(open(f'/dev/{d}', 'rb').read(1) for d in ('vda', 'sda', 'nvme0n1', 'mem'))",
    "the trainer's source": "return 'def judge' in open('PACKAGE/incentive/verify/sandbox.py').read()",
    "kernel log": "return bool(open('/dev/kmsg').read(1))",
})  # fmt: skip
_add("read files", SECRET, {
    "openat2": _CALL + "import struct\ndef f(x):\n    r, e = call(437, -100, b'FILE', struct.pack('=3Q', 0, 0, 0), 24)\n    return os.read(r, 99).decode()",
    "by handle": _CALL + "def f(x):\n    h = ctypes.create_string_buffer(b'\\x80\\0\\0\\0' + bytes(200))\n    m = ctypes.c_int()\n    call(303, -100, b'FILE', h, ctypes.byref(m), 0)\n    r, e = call(304, -100, h, 0)\n    return os.read(r, 99).decode()",
})  # fmt: skip

_tries("change files", True, "import os, shutil", {
    "write home": "open('HOME/mark-TOKEN', 'w').write('x')\nreturn False",
    "write tmp": "open('/tmp/mark-TOKEN', 'w').write('x')\nreturn False",
    "write shared memory": "open('/dev/shm/mark-TOKEN', 'w').write('x')\nreturn False",
    "write beside": "open('DIR/new', 'w').write('x')\nreturn True",
    "overwrite": "open('FILE', 'w').write('x')\nreturn True",
    "append": "open('FILE', 'a').write('x')\nreturn True",
    "read and write": "os.write(os.open('FILE', os.O_RDWR), b'x')\nreturn True",
    "truncate": "os.truncate('FILE', 0)\nreturn True",
    "open to truncate": "os.open('FILE', os.O_RDONLY | os.O_TRUNC)\nreturn True",
    "rename": "os.rename('FILE', 'DIR/gone')\nreturn True",
    "remove": "os.unlink('FILE')\nreturn True",
    "remove all": "shutil.rmtree('DIR', ignore_errors=True)\nreturn False",
    "make a folder": "os.mkdir('DIR/new')\nreturn True",
    "permissions": "os.chmod('FILE', 0o777)\nreturn True",
    "owner": "os.chown('FILE', 1, 1)\nreturn True",
    "times": "os.utime('FILE', (0, 0))\nreturn True",
    "attributes": "os.setxattr('FILE', 'user.x', b'x')\nreturn True",
    "fifo": "os.mkfifo('DIR/new')\nreturn True",
    "device": "os.mknod('DIR/new', 0o20666, os.makedev(1, 1))\nreturn True",
    "symlink": "os.symlink('/etc', 'DIR/new')\nreturn True",
    "hard link": "os.link('FILE', 'DIR/new')\nreturn True",
    "nameless file": "os.open('DIR', os.O_TMPFILE | os.O_RDWR, 0o600)\nreturn True",
    "the standard library": "open(os.__file__, 'a').write('')\nreturn True",
    "its bytecode": "import string\nopen(string.__cached__, 'r+b').write(b'')\nreturn True",
    "core pattern": "open('/proc/sys/kernel/core_pattern', 'w').write('core')\nreturn True",
    "trainer's memory file": "open('/proc/PID/mem', 'r+b')\nreturn True",
    "own out-of-memory score": "open('/proc/self/oom_score_adj', 'w').write('1000')\nreturn True",
    "cgroup": "os.mkdir('/sys/fs/cgroup/mark-TOKEN')\nreturn True",
    "terminal": "open('/dev/tty', 'w').write('x')\nreturn True",
    "fill the disk": "with open('/tmp/mark-TOKEN', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20))\n    f.flush()\nreturn True",
    "many files": "for n in range(5000): open(f'/tmp/mark-TOKEN-{n}', 'w').write('x')\nreturn True",
    "unix socket file": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('DIR/new')\nreturn True",
})  # fmt: skip

# --- network ---------------------------------------------------------------------------------------------------------

_tries("network", True, "import socket, os", {
    "loopback": "socket.create_connection(('127.0.0.1', PORT), 1)\nreturn True",
    "loopback v6": "socket.create_connection(('::1', PORT), 1)\nreturn True",
    "http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT/', timeout=1)\nreturn True",
    "asyncio": "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', PORT))\nreturn True",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))\nreturn True",
    "names": "return bool(socket.gethostbyname('localhost'))",
    "dns": "socket.getaddrinfo('example.com', 80)\nreturn True",
    "listen": "s = socket.socket()\ns.bind(('0.0.0.0', 0))\ns.listen()\nreturn True",
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\nreturn True",
    "packet": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nreturn True",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nreturn True",
    "vsock": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\nreturn True",
    "unix socket": "s = socket.socket(socket.AF_UNIX)\ns.connect('SOCK')\ns.send(b'x')\nreturn True",
    "abstract socket": "s = socket.socket(socket.AF_UNIX)\ns.connect('\\0ABSTRACT')\ns.send(b'x')\nreturn True",
    "datagram past a pair": "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'x', '\\0ABSTRACT-datagram')\nreturn True",
    "descriptors over a socket": "for n in range(64):\n    try:\n        socket.socket(fileno=n).send(b'x')\n        return True\n    except OSError: pass",
})  # fmt: skip
_add("network", True, {
    "socket by number": _CALL + "def f(x): return reached(41, 2, 1, 0)",
    "io_uring": _CALL + "def f(x): return reached(425, 8, ctypes.create_string_buffer(256))",
    "bpf": _CALL + "def f(x): return reached(321, 0, ctypes.create_string_buffer(64), 64)",
})  # fmt: skip

# --- processes -------------------------------------------------------------------------------------------------------

_tries("processes", True, "import os, sys, time", {
    "fork": "if os.fork() == 0: os._exit(0)\nreturn True",
    "fork bomb": "while True:\n    try: os.fork()\n    except OSError: pass",
    "vfork bomb": "import ctypes\nl = ctypes.CDLL(None)\nwhile True: l.fork()",
    "daemon that outlives": "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(30)\n    os._exit(0)\nreturn True",
    "shell": "return os.system('touch DIR/new') == 0",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'touch DIR/new'], check=True)\nreturn True",
    "python again": "import subprocess\nsubprocess.run([sys.executable, '-c', 'open(\"DIR/new\", \"w\")'], check=True)\nreturn True",
    "multiprocessing": "import multiprocessing as m\np = m.Process(target=print)\np.start()\np.join()\nreturn True",
    "process pool": "from concurrent.futures import ProcessPoolExecutor as P\nreturn P(1).submit(abs, -1).result() == 1",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})\nreturn True",
    "become another": "os.execv('/bin/sh', ['sh', '-c', 'touch DIR/new'])",
    "become a file in memory": "f = os.memfd_create('x')\nos.write(f, open('/bin/true', 'rb').read())\nos.execve(f, ['true'], {})",
    "terminal fork": "import pty\nif pty.fork()[0] == 0: os._exit(0)\nreturn True",
    "setuid program": "os.execv('/bin/su', ['su', '-c', 'touch DIR/new'])",
    "many threads": "import threading\nfor _ in range(200): threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\ntime.sleep(1)\nreturn True",
    "thread that outlives": "import threading\ndef g():\n    time.sleep(2)\n    open('/tmp/mark-TOKEN', 'w').write('x')\nthreading.Thread(target=g).start()\nreturn False",
    "thread that burns": "import threading\ndef g():\n    while True: pass\nthreading.Thread(target=g).start()\nreturn False",
    "at exit": "import atexit\natexit.register(lambda: time.sleep(60))\nreturn False",
})  # fmt: skip
_add("processes", True, {
    "clone by number": _CALL + "def f(x):\n    r, e = call(56, 17, 0, 0, 0, 0)\n    if r == 0: os._exit(0)\n    return r > 0",
    "clone3 by number": _CALL + "import struct\ndef f(x):\n    a = struct.pack('=8Q', 0, 0, 0, 0, 17, 0, 0, 0)\n    r, e = call(435, a, 64)\n    if r == 0: os._exit(0)\n    return r > 0",
})  # fmt: skip

_tries("signals", True, "import os, signal, time", {
    "kill the parent": "os.kill(os.getppid(), signal.SIGKILL)\nreturn True",
    "kill the trainer": "os.kill(PID, signal.SIGKILL)\nreturn True",
    "is the trainer there": "os.kill(PID, 0)\nreturn True",
    "kill the bystander": "os.kill(VICTIM, signal.SIGKILL)\nreturn True",
    "kill all": "os.kill(-1, signal.SIGKILL)\nreturn True",
    "kill the group": "os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)\nreturn True",
    "kill pid 1": "if os.getpid() == 1: return False\nos.kill(1, signal.SIGTERM)\nreturn True",
    "kill a range": "n = 0\nfor p in range(2, 40000):\n    if p != os.getpid():\n        try:\n            os.kill(p, signal.SIGKILL)\n            n += 1\n        except OSError: pass\nreturn n > 0",
    "stop the parent": "os.kill(os.getppid(), signal.SIGSTOP)\nreturn True",
    "by pid descriptor": "signal.pidfd_send_signal(os.pidfd_open(VICTIM), signal.SIGKILL)\nreturn True",
    "by owned pipe": "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, 8, VICTIM)\nfcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, 4, fcntl.fcntl(r, 3) | os.O_ASYNC)\nos.close(w)\nreturn False",
    "by a pipe owned exactly": "import fcntl, struct\nr, w = os.pipe()\nfcntl.fcntl(r, 15, struct.pack('ii', 1, VICTIM))\nfcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, 4, fcntl.fcntl(r, 3) | os.O_ASYNC)\nos.close(w)\nreturn False",
    "limits of another": "import resource\nresource.prlimit(VICTIM, resource.RLIMIT_CPU, (1, 1))\nreturn True",
    "limits of its own": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nreturn True",
    "priority of another": "os.setpriority(os.PRIO_PROCESS, VICTIM, 19)\nreturn True",
    "cores of another": "os.sched_setaffinity(VICTIM, {0})\nreturn True",
    "session of another": "os.setpgid(VICTIM, 0)\nreturn True",
})  # fmt: skip
_add("signals", True, {
    "tgkill": _CALL + "def f(x): return call(234, VICTIM, VICTIM, 9)[0] == 0",
    "tkill": _CALL + "def f(x): return call(200, VICTIM, 9)[0] == 0",
    "queue a signal": _CALL + "def f(x): return call(129, VICTIM, 10, __import__('struct').pack('=iii', 10, 0, -1) + bytes(116))[0] == 0",
    "die with nobody": _CALL + "def f(x): return call(157, 1, 0, 0, 0, 0)[0] == 0",
})  # fmt: skip

_tries("other processes", True, "import os, sys", {
    "trainer's environment": "return b'PATH=' in open('/proc/PID/environ', 'rb').read()",
    "trainer's command": "return len(open('/proc/PID/cmdline').read()) > 0",
    "trainer's maps": "return len(open('/proc/PID/maps').read()) > 0",
    "trainer's descriptors": "return len(os.listdir('/proc/PID/fd')) > 0",
    "parent's memory": "return len(os.listdir(f'/proc/{os.getppid()}/fd')) > 0 and bool(open(f'/proc/{os.getppid()}/mem', 'rb'))",
    "parent's pipes": "for n in range(10):\n    f = os.open(f'/proc/{os.getppid()}/fd/{n}', os.O_WRONLY | os.O_NONBLOCK)\n    os.write(f, b'x')\nreturn True",
    "own environment": "return 'TOKEN' in str(dict(os.environ)) or 'HOME' in os.environ",
    "own first environment": "return b'HOME=' in open('/proc/self/environ', 'rb').read()",
    "who else runs": "return sum(d.isdigit() for d in os.listdir('/proc')) > 3",
    "kernel symbols": "return len(open('/proc/kallsyms').read(9)) > 0",
    "kernel memory": "return len(open('/proc/kcore', 'rb').read(9)) > 0",
    "own memory file": "open('/proc/self/mem', 'r+b')\nreturn True",
    "devices": "return len(os.listdir('/sys/class')) > 0",
})  # fmt: skip
_add("other processes", True, {
    "trace": _CALL + "def f(x): return call(101, 16, VICTIM, 0, 0)[0] == 0",
    "trace the parent": _CALL + "def f(x): return call(101, 16, os.getppid(), 0, 0)[0] == 0",
    "be traced": _CALL + "def f(x): return call(101, 0, 0, 0, 0)[0] == 0",
    "read memory": _CALL + "import struct\ndef f(x):\n    b = ctypes.create_string_buffer(64)\n    a = struct.pack('=QQ', ctypes.addressof(b), 64)\n    return any(reached(310, p, a, 1, a, 1, 0) for p in (VICTIM, os.getppid(), PID))",
    "write memory": _CALL + "import struct\ndef f(x):\n    b = ctypes.create_string_buffer(64)\n    a = struct.pack('=QQ', ctypes.addressof(b), 64)\n    return any(reached(311, p, a, 1, a, 1, 0) for p in (VICTIM, os.getppid(), PID))",
    "take a descriptor": _CALL + "def f(x):\n    r, e = call(434, os.getppid(), 0)\n    return r >= 0 and call(438, r, 0, 0)[0] >= 0",
    "compare": _CALL + "def f(x): return call(312, PID, VICTIM, 0, 0, 0)[0] >= 0",
})  # fmt: skip

# --- the kernel ------------------------------------------------------------------------------------------------------

_add("kernel", True, {
    "mount": _CALL + "def f(x): return call(165, b'none', b'/tmp', b'tmpfs', 0, b'')[0] == 0",
    "mount again writable": _CALL + "def f(x): return call(165, b'none', b'/', None, 32 | 4096, b'')[0] == 0",
    "uncover": _CALL + "def f(x): return call(166, b'/proc', 2)[0] == 0",
    "pivot root": _CALL + "def f(x): return reached(155, b'/tmp', b'/tmp')",
    "chroot": _CALL + "def f(x): return call(161, b'/')[0] == 0",
    "user namespace": _CALL + "def f(x): return call(272, 0x10000000)[0] == 0",
    "enter a namespace": _CALL + "def f(x): return reached(308, 0, 0)",
    "become root": _CALL + "def f(x): return call(105, 0)[0] == 0 and call(117, 0, 0, 0)[0] == 0 and call(165, b'none', b'/tmp', b'tmpfs', 0, b'')[0] == 0",
    "capabilities": _CALL + "import struct\ndef f(x): return call(126, struct.pack('=Ii', 0x20080522, 0), struct.pack('=6I', *[0xffffffff] * 6))[0] == 0",
    "reboot": _CALL + "def f(x): return reached(169, 1, 2, 3, 0)",
    "module": _CALL + "def f(x): return reached(175, b'x', 1, b'')",
    "kexec": _CALL + "def f(x): return reached(246, 0, 0, 0, 0)",
    "machine name": _CALL + "def f(x): return reached(170, b'owned', 5)",
    "clock": _CALL + "def f(x): return reached(227, 0, bytes(16))",
    "swap": _CALL + "def f(x): return reached(167, b'/tmp/x', 0)",
    "performance events": _CALL + "def f(x): return reached(298, bytes(128), 0, -1, -1, 0)",
    "keys": _CALL + "def f(x): return reached(250, 0, -3, 0, 0, 0)",
    "page faults": _CALL + "def f(x): return reached(323, 1)",
    "kernel messages": _CALL + "def f(x): return reached(103, 10, 0, 0)",
    "personality": _CALL + "def f(x): return reached(135, 0xffffffff)",
    "segments": _CALL + "def f(x): return reached(154, 0, bytes(16), 16)",
    "shared memory": _CALL + "def f(x): return reached(29, 0, 4096, 0o1600)",
    "message queue": _CALL + "def f(x): return reached(240, b'x', 0o102, 0o600, 0)",
    "file in memory": _CALL + "def f(x): return reached(319, b'x', 0)",
    "watch files": _CALL + "def f(x): return reached(294, 0) or reached(300, 0, 0)",
    "another filter": _CALL + "def f(x): return reached(317, 0, 0, 0)",
    "be dumpable": _CALL + "def f(x): return call(157, 4, 1, 0, 0, 0)[0] == 0",
    "lock memory": _CALL + "def f(x): return reached(151, 3)",
    "x32 table": _CALL + "def f(x): return call(0x40000000 | 39)[0] > 0",
    "32-bit gate": "import ctypes, mmap\ndef f(x):\n    m = mmap.mmap(-1, 4096, prot=7)\n    m.write(bytes.fromhex('53b814000000cd805bc3'))\n    a = ctypes.addressof(ctypes.c_char.from_buffer(m))\n    return ctypes.CFUNCTYPE(ctypes.c_int)(a)() > 0",
})  # fmt: skip

# --- resources -------------------------------------------------------------------------------------------------------

_tries("resources", TOKEN, "import os, sys, time", {
    "loop": "while True: pass",
    "loop in C": "return sum(range(10 ** 12))",
    "big power": "return 10 ** 10 ** 9 % 7",
    "big factorial": "import math\nreturn math.factorial(10 ** 7) % 7",
    "slow pattern": "import re\nreturn re.match('(a+)+$', 'a' * 40 + 'b')",
    "sleep": "time.sleep(10 ** 6)",
    "pause": "import signal\nsignal.pause()",
    "deadlock": "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()",
    "wait for input": "return sys.stdin.read() or os.read(0, 1) or [time.sleep(9) for _ in range(99)]",
    "timeout swallowed": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "signals ignored": "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass",
    "alarm handler": "import signal\nsignal.signal(signal.SIGXCPU, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\nsignal.signal(signal.SIGALRM, lambda *a: None)\nwhile True: pass",
    "endless generator": "def g():\n    while True: yield 1\nreturn list(g())",
    "endless iterator": "import itertools\nreturn list(itertools.count())",
    "returned generator": "def g():\n    while True: yield 1\nreturn g()",
    "memory, string": "a = 'x'\nwhile True: a += a",
    "memory, list": "a = []\nwhile True: a.append([0] * 1000)",
    "memory, one request": "return len(bytearray(1 << 40))",
    "memory, dict": "a = {}\nwhile True: a[len(a)] = str(len(a)) * 100",
    "memory, mapped": "import mmap\na = []\nwhile True:\n    m = mmap.mmap(-1, 1 << 24)\n    m.write(bytes(1 << 24))\n    a.append(m)",
    "memory, malloc": "import ctypes\nl = ctypes.CDLL(None)\nl.malloc.restype = ctypes.c_void_p\nwhile True:\n    p = l.malloc(ctypes.c_size_t(1 << 24))\n    ctypes.memset(p, 1, 1 << 24)",
    "memory, pipes": "a = []\nwhile True:\n    r, w = os.pipe()\n    os.set_blocking(w, False)\n    os.write(w, bytes(1 << 16))\n    a.append(r)",
    "zip bomb": "import zlib\nd = zlib.compress(bytes(1 << 24))\nfor _ in range(3): d = zlib.compress(d * 1000)\nwhile True: d = zlib.decompress(d)",
    "recursion": "return f(x)",
    "recursion without limit": "sys.setrecursionlimit(10 ** 9)\ndef g(n): return [*map(g, [n + 1])]\nreturn g(0)",
    "nested source": "return eval('(' * 100000 + ')' * 100000)",
    "nested operators": "return eval('-' * 1000000 + '1')",
    "large source": "return eval('+'.join(['1'] * 10 ** 6))",
    "string of all": "return str([[0] * 1000] * 10 ** 5)",
    "huge result": "return [0] * 10 ** 7",
    "shared result": "a = []\nfor _ in range(60): a = [a, a]\nreturn a",
    "cyclic result": "a = []\na.append(a)\nreturn a",
    "deep result": "a = []\nfor _ in range(10 ** 5): a = [a]\nreturn a",
    "huge number": "return 1 << (1 << 24)",
    "output flood": "while True: print('x' * 10000)",
    "error flood": "while True: print('x' * 10000, file=sys.stderr)",
    "hash flood": "return len({i * (2 ** 61 - 1): 0 for i in range(10 ** 6)})",
    "segmentation fault": "import ctypes\nctypes.string_at(0)",
    "abort": "os.abort()",
    "kill itself": "os.kill(os.getpid(), 9)",
    "stack overflow in C": "import ctypes\nF = ctypes.CFUNCTYPE(None)\n@F\ndef g(): g()\ng()",
    "bad bytecode": "return eval((lambda: 0).__code__.replace(co_code=bytes([100, 255] * 9), co_consts=()))",
})  # fmt: skip

# --- passing without solving -----------------------------------------------------------------------------------------

_SLY = "class Sly(BASE):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n    def __hash__(self): return 0\n    def __len__(self): return 0\n    def __bool__(self): return True\n    def __iter__(self): return iter(())\n    def __repr__(self): return 'True'\n"
_add("pass unsolved", TOKEN, {
    "always equal": _SLY.replace("(BASE)", "") + "def f(x): return Sly()",
    "string that is equal": _SLY.replace("BASE", "str") + "def f(x): return Sly()",
    "int that is equal": _SLY.replace("BASE", "int") + "def f(x): return Sly()",
    "list that is equal": _SLY.replace("BASE", "list") + "def f(x): return Sly()",
    "dict that is equal": _SLY.replace("BASE", "dict") + "def f(x): return Sly()",
    "float that is equal": _SLY.replace("BASE", "float") + "def f(x): return Sly()",
    "equal inside a list": _SLY.replace("(BASE)", "") + "def f(x): return [Sly()]",
    "type that lies": "class T(type):\n    def __eq__(s, o): return True\n    def __hash__(s): return 0\nclass S(metaclass=T):\n    @property\n    def __class__(s): return str\ndef f(x): return S()",
    "pickle": "class P:\n    def __reduce__(self): return (eval, ('open(\"DIR/new\", \"w\")',))\ndef f(x): return P()",
    "pickled bytes": "import pickle\ndef f(x): return pickle.dumps(print)",
    "exit at once": "import sys\nsys.exit(0)",
    "exit in the call": "import sys\ndef f(x): sys.exit(0)",
    "hard exit": "import os\ndef f(x): os._exit(0)",
    "hard exit at once": "import os\nos._exit(0)",
    "raise SystemExit": "raise SystemExit",
    "raise in the call": "def f(x): raise SystemExit('pass')",
    "keyboard interrupt": "def f(x): raise KeyboardInterrupt",
    "exception that cannot be shown": "class E(BaseException):\n    def __str__(s): raise E\n    __repr__ = __str__\ndef f(x): raise E",
    "nothing": "",
    "returns its input": "def f(x): return x",
    "returns true": "def f(x): return True",
    "returns none": "def f(x): return None",
    "empty list": "def f(x): return []",
    "not a number": "def f(x): return float('nan')",
    "a function": "def f(x): return f",
    "the type": "def f(x): return str",
    "patched builtins": "import builtins\nfor n in ('len', 'isinstance', 'all', 'any', 'zip', 'sorted', 'repr', 'str', 'type', 'open'):\n    setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return True",
    "patched json": "import json\njson.dumps = lambda *a, **k: '[\"value\", true]'\njson.loads = lambda *a, **k: ['list']\ndef f(x): return True",
    "patched encoder": "import sys\nfor m in list(sys.modules.values()):\n    for n in ('encode', 'write_frame', '_named', 'same', 'sound'):\n        if hasattr(m, n):\n            try: setattr(m, n, lambda *a, **k: True)\n            except Exception: pass\ndef f(x): return True",
    "patched comparison": "import operator, functools\noperator.eq = lambda a, b: True\nfunctools.reduce = lambda *a: True\ndef f(x): return True",
    "import hook": "import sys\nclass H:\n    def find_spec(self, *a): raise SystemExit(0)\nsys.meta_path.insert(0, H())\ndef f(x):\n    import wave\n    return True",
    "replaced modules": "import sys\nfor n in list(sys.modules):\n    if n not in ('sys', 'builtins'): sys.modules[n] = None\ndef f(x): return True",
    "trace function": "import sys\ndef t(fr, ev, arg):\n    try: fr.f_locals.update(passed=99, outcome='pass')\n    except Exception: pass\n    return t\nsys.settrace(t)\nsys.setprofile(t)\ndef f(x): return True",
    "printed verdict": "def f(x):\n    print('{\"outcome\": \"pass\", \"passed\": 1, \"total\": 1}')\n    print('PASS')",
    "verdict on every descriptor": "import os, json\ndef f(x):\n    d = json.dumps([1, 'done', {'results': [['value', True]], 'outcome': 'pass'}]).encode() + b'\\n'\n    for n in range(64):\n        try: os.write(n, d)\n        except OSError: pass\n    return True",
    "frames on every descriptor": "import os, struct\ndef f(x):\n    d = b'[\"value\", true]'\n    for n in range(64):\n        for d in (b'[\"value\", true]', b'[\"text\", \"\", false]', b'[\"down\", \"x\", true]', b'ready'):\n            try: os.write(n, struct.pack('=I', len(d)) + d)\n            except OSError: pass\n    return True",
    "frame of four gigabytes": "import os\ndef f(x):\n    for n in range(3, 64):\n        try: os.write(n, b'\\xff\\xff\\xff\\xff')\n        except OSError: pass\n    return True",
    "half a frame": "import os, time\ndef f(x):\n    for n in range(3, 64):\n        try: os.write(n, b'\\x00\\x01\\x00\\x00half')\n        except OSError: pass\n    time.sleep(99)",
    "frame that nests": "import os, struct\ndef f(x):\n    d = b'[' * 9000 + b']' * 9000\n    for n in range(3, 64):\n        try: os.write(n, struct.pack('=I', len(d)) + d)\n        except OSError: pass\n    os._exit(0)",
    "says that the jail is down": "import os, struct\nfor n in range(3, 64):\n    for d in (b'[\"down\", \"no jail\", true]', b'[\"wall\", \"no wall\"]'):\n        try: os.write(n, struct.pack('=I', len(d)) + d)\n        except OSError: pass\nos._exit(4)",
    "closes everything": "import os\ndef f(x):\n    os.closerange(0, 64)\n    return True",
    "closes everything and stays": "import os\ndef f(x):\n    os.closerange(0, 64)\n    while True: pass",
    "reads ahead": "import os\ndef f(x):\n    got = []\n    for n in range(3, 64):\n        try:\n            os.set_blocking(n, False)\n            got.append(os.read(n, 1 << 16).decode())\n        except OSError: pass\n    return [g for g in got if len(g) == 32] or 'none'",
    "searches objects": "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if isinstance(o, dict):\n            for k in ('output', 'want', 'tests', 'expected'):\n                if isinstance(o.get(k), str): return o[k]\n    return 'none'",
    "searches frames": "import sys\ndef f(x):\n    fr, n = sys._getframe(), 0\n    while fr:\n        for k, v in {**fr.f_globals, **fr.f_locals}.items():\n            if isinstance(v, str) and len(v) == 32: return v\n        fr = fr.f_back\n    return 'none'",
    "searches the stack": "import inspect\ndef f(x):\n    for r in inspect.stack():\n        for v in r.frame.f_locals.values():\n            if isinstance(v, str) and len(v) == 32: return v\n    return 'none'",
    "searches tracebacks": "def f(x):\n    try: 1 / 0\n    except ZeroDivisionError as e:\n        fr = e.__traceback__.tb_frame\n        while fr.f_back: fr = fr.f_back\n        return [v for v in fr.f_locals.values() if isinstance(v, str) and len(v) == 32] or 'none'",
    "searches memory": "import ctypes, re\ndef f(x):\n    for o in range(-(1 << 16), 1 << 16, 4096):\n        b = ctypes.string_at(id(f) + o, 4096)\n        m = re.search(rb'[0-9a-f]{32}', b)\n        if m: return m[0].decode()\n    return 'none'",
    "rewrites a constant": "import ctypes\ndef f(x):\n    ctypes.c_long.from_address(id(True) + 24).value = 0\n    ctypes.c_long.from_address(id(1) + 24).value = 2\n    return True",
    "subclasses of object": "def f(x):\n    for c in ().__class__.__base__.__subclasses__():\n        if c.__name__ == 'Popen': return c(['touch', 'DIR/new'])\n        if c.__name__ == 'BuiltinImporter': c.load_module('os').system('touch DIR/new')\n    return True",
    "builtins by a back door": "def f(x):\n    b = f.__globals__['__builtins__']\n    b = b if isinstance(b, dict) else b.__dict__\n    return b['__import__']('os').popen('cat FILE').read()",
    "thread answers later": "import threading, time\ndef f(x):\n    r = []\n    threading.Thread(target=lambda: (time.sleep(0.1), r.append(1))).start()\n    return r",
    "surrogates": "def f(x): return chr(0xd800) * 9",
    "keys that collide": "def f(x): return {'a': 1, chr(97): 2, True: 3, 1: 4}",
})  # fmt: skip
_add("pass unsolved", TOKEN, {
    "prints nothing": "pass",
    "exits first": "import sys\nsys.exit(0)",
    "prints a verdict": "print('PASS')\nprint('{\"outcome\": \"pass\"}')",
    "reads its output": "import os\nos.lseek(1, 0, 0)\nprint(os.read(1, 999).decode())",
    "reads every descriptor": "import os\nfor n in range(64):\n    try:\n        os.set_blocking(n, False)\n        print(os.read(n, 999).decode())\n    except OSError: pass",
    "grows its output": "import os\nos.ftruncate(1, 1 << 40)",
    "writes to its input": "import os\nos.lseek(0, 0, 0)\nos.write(0, b'x')\nprint(open(0).read())",
    "closes its output": "import os, sys\nos.close(1)\nos._exit(0)",
    "prints for ever": "while True: print('x')",
    "prints at exit": "import atexit\natexit.register(print, 'PASS')",
    "replaces stdout": "import sys, io\nsys.stdout = io.StringIO()\nprint('x')",
    "thread keeps it open": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()",
    "nul bytes": "print('\\0' * 100)",
}, entry=None)  # fmt: skip

ATTACKS: tuple[Attack, ...] = tuple(_ALL)
