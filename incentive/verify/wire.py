"""What the processes of a jail tell one another: frames over pipes, and which walls stand. Standard library only."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

FUNCTION, SCRIPT = b"f", b"s"
READY = b"ready"
END = b""  # the frame after the last input
MAX_FRAME = 64 << 20


@dataclass(frozen=True)
class Walls:
    """Which walls a tier puts up, and what a program may use."""

    namespaces: bool
    landlock: int | None  # the ruleset's descriptor
    seconds: float
    memory: int  # bytes of address space, in all
    output: int  # bytes
    file: int  # bytes
    tasks: int


class Gone(Exception):
    """The other end of a pipe has closed."""


def read_exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(fd, min(size - len(data), 1 << 20))
        if not part:
            raise Gone
        data += part
    return bytes(data)


def read_frame(fd: int, largest: int = MAX_FRAME) -> bytes:
    size = struct.unpack("=I", read_exactly(fd, 4))[0]
    if size > largest:
        raise ValueError(f"a frame of {size} bytes")
    return read_exactly(fd, size)


def write_frame(fd: int, data: bytes) -> None:
    view = memoryview(struct.pack("=I", len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]
