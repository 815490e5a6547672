"""The kernel's walls, called directly: rlimits, capabilities, namespaces, Landlock, seccomp. Linux on x86-64, no library.

Used inside the jails: standard library only. Every function raises OSError where the kernel refuses; a jail that
lacks one of its walls does not start.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
PR_SET_NAME, PR_GET_NAME = 15, 16
LAST_CAP = 40


def supported() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.byteorder == "little"


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, *values: int) -> None:
    padded = [ctypes.c_ulong(v) for v in (*values, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(ctypes.c_int(option), *padded), f"prctl {option}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(kind: str | None, where: str, flags: int, options: str = "") -> None:
    name = (kind or "none").encode()
    fs = kind.encode() if kind else None
    _check(_libc.mount(name, where.encode(), fs, ctypes.c_ulong(flags), options.encode()), f"mount on {where}")


def map_self(uid: int, gid: int, inside: int) -> None:
    """Be the one user of this process's new user namespace; `uid` and `gid` are those of before."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{inside} {uid} 1"), ("gid_map", f"{inside} {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def drop_capabilities() -> None:
    """Give up every capability, and the means to regain one."""
    for cap in range(LAST_CAP + 1):
        _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(cap), 0, 0, 0)  # fails where there is none to drop
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.syscall(126, header, bytes(24)), "capset")


def limit(memory: int, file: int) -> None:
    """Rlimits of one program: bytes of address space, bytes of a file; no core, few descriptors."""
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
    ):
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


# --- Landlock: which files may be opened, and no signal, trace or abstract socket out of the domain ------------------

READ_FILE, READ_DIR = 1 << 2, 1 << 3
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # file rights known by each version of the interface


def landlock_version() -> int:
    """The version of Landlock's interface, 0 where the kernel has none."""
    return max(0, _libc.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))) if supported() else 0


def landlock_rules(readable: Iterable[str]) -> int:
    """A ruleset that allows nothing but to read beneath these folders; its descriptor."""
    version = landlock_version()
    handled = [(1 << _RIGHTS[min(version, 5)]) - 1]
    if version >= 4:
        handled.append(3)  # bind and connect, TCP
    if version >= 6:
        handled.append(3)  # abstract sockets and signals
    attr = struct.pack(f"={len(handled)}Q", *handled)
    rules = _check(_libc.syscall(444, attr, ctypes.c_size_t(len(attr)), ctypes.c_uint32(0)), "landlock_create_ruleset")
    for folder in readable:
        fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", READ_FILE | READ_DIR, fd)
        _check(_libc.syscall(445, rules, 1, rule, ctypes.c_uint32(0)), f"landlock_add_rule {folder}")
        os.close(fd)
    return rules


def landlock(rules: int) -> None:
    """Enter the ruleset, for good."""
    _check(_libc.syscall(446, rules, ctypes.c_uint32(0)), "landlock_restrict_self")


# --- seccomp: the system calls that a computation needs, by number, and no others ------------------------------------

_ALLOWED = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23,
    "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35,
    "getitimer": 36, "alarm": 37, "setitimer": 38, "getpid": 39, "exit": 60, "wait4": 61, "uname": 63, "flock": 73,
    "ftruncate": 77, "getcwd": 79, "chdir": 80, "fchdir": 81, "readlink": 89, "umask": 95, "gettimeofday": 96,
    "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107,
    "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115, "getpgid": 121, "getsid": 124,
    "rt_sigpending": 127, "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "sigaltstack": 131, "setrlimit": 160,
    "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204, "getdents64": 217, "set_tid_address": 218,
    "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
    "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "epoll_pwait": 281, "eventfd2": 290, "epoll_create1": 291,
    "dup3": 292, "pipe2": 293, "getrandom": 318, "statx": 332, "rseq": 334, "close_range": 436, "faccessat2": 439,
}  # fmt: skip
_FILES = {  # where the jail has a file system of its own to change
    "open": 2, "fsync": 74, "fdatasync": 75, "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85,
    "link": 86, "unlink": 87, "symlink": 88, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264,
    "linkat": 265, "symlinkat": 266, "renameat2": 316,
}  # fmt: skip
_OPEN, _IOCTL, _CLONE, _KILL, _FCNTL, _PRCTL, _TGKILL, _OPENAT, _PRLIMIT = 2, 16, 56, 62, 72, 157, 234, 257, 302
_CLONE3, _OPENAT2 = 435, 437  # their arguments lie in memory, where no filter can see them

_ARCH = 0xC000003E  # x86-64
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_EPERM, _EACCES, _ENOSYS = 1, 13, 38
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # the last: a file without a name
_CLONE_THREAD = 0x00010000
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)  # is it a terminal, its size, bytes to read, close on exec
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1031, 1032)  # not F_SETOWN, F_SETSIG: they send signals to others

Code = list[tuple[int, int, int, int]]


def _argument(n: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, 16 + 8 * n)  # its low half: all that is looked at is a C int


def _only(number: int, test: Code, error: int = _EPERM) -> Code:
    """Allow a call where `test` falls through to its end plus one: see the users."""
    body = [*test, (_RET, 0, 0, _ERRNO | error)]
    return [(_JEQ, 0, len(body), number), *body]


def _one_of(number: int, n: int, values: Iterable[int]) -> Code:
    """Allow a call if its argument `n` is one of the values."""
    tests = [step for v in values for step in ((_JEQ, 0, 1, v), (_RET, 0, 0, _ALLOW))]
    return _only(number, [_argument(n), *tests])


def filter_code(files: bool, pid: int) -> Code:
    """The BPF program: calls outside the list are refused (EPERM); a call of another machine's table ends the process.

    Threads but no processes, no signal but to itself (`pid`), no socket at all; without `files`, no open for writing.
    """
    code: Code = [
        (_LOAD, 0, 0, 4), (_JEQ, 1, 0, _ARCH), (_RET, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, 0), (_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _KILL_PROCESS),
    ]  # fmt: skip
    for number in [*_ALLOWED.values(), *(_FILES.values() if files else ())]:
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ALLOW)]
    if not files:
        for number, n in ((_OPEN, 1), (_OPENAT, 2)):
            code += _only(number, [_argument(n), (_JSET, 1, 0, _WRITES), (_RET, 0, 0, _ALLOW)], _EACCES)
    code += _only(_CLONE, [_argument(0), (_JSET, 0, 1, _CLONE_THREAD), (_RET, 0, 0, _ALLOW)])
    code += _one_of(_KILL, 0, (pid,)) + _one_of(_TGKILL, 0, (pid,)) + _one_of(_PRLIMIT, 0, (0,))
    code += _one_of(_PRCTL, 0, (PR_SET_NAME, PR_GET_NAME)) + _one_of(_IOCTL, 1, _IOCTLS) + _one_of(_FCNTL, 1, _FCNTLS)
    for number in (_CLONE3, _OPENAT2):
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ERRNO | _ENOSYS)]
    return [*code, (_RET, 0, 0, _ERRNO | _EPERM)]


def seccomp(code: Code) -> None:
    """Install the filter on this process, for good. Needs `PR_SET_NO_NEW_PRIVS`."""
    raw = b"".join(struct.pack("=HBBI", *step) for step in code)
    steps = ctypes.create_string_buffer(raw, len(raw))
    program = struct.pack("@HP", len(code), ctypes.addressof(steps))
    program_buffer = ctypes.create_string_buffer(program, len(program))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program_buffer))
