"""What an ELF file says of itself: its machine, the libraries that it needs, the glibc that it needs at least.

It runs nothing, so it reads programs for other machines too.
"""

import dataclasses
import re
import struct

MACHINES = {62: "x86_64", 183: "aarch64"}
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NEEDED, DT_STRTAB, DT_STRSZ = 1, 5, 10


class NotElf(Exception):
    pass


@dataclasses.dataclass
class Elf:
    machine: str
    # The program that loads it; `None` for a static one.
    loader: str | None
    needed: list[str]
    # The minor version of glibc 2; `None` without glibc.
    glibc: int | None


def read(content):
    """Reads a 64-bit little-endian ELF file."""
    if content[:6] != b"\x7fELF\x02\x01":
        raise NotElf("it is no 64-bit ELF program")
    (machine,) = struct.unpack_from("<H", content, 18)
    if machine not in MACHINES:
        raise NotElf(f"its machine is {machine}, which is neither x86_64 nor aarch64")
    segments = _segments(content)
    loader = next((_text(content, at) for kind, at, _, _ in segments if kind == PT_INTERP), None)
    dynamic = _dynamic(content, segments)
    strings = _strings(content, segments, dynamic)
    needed = [_text(strings, value) for tag, value in dynamic if tag == DT_NEEDED]
    versions = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", strings)]
    return Elf(MACHINES[machine], loader, needed, max(versions, default=None))


def _segments(content):
    """Kind, offset in the file, address and size of each segment."""
    (start,), (size, count) = struct.unpack_from("<Q", content, 32), struct.unpack_from("<HH", content, 54)
    headers = (struct.unpack_from("<IIQQQQ", content, at) for at in range(start, start + size * count, size))
    return [(kind, offset, address, length) for kind, _, offset, address, _, length in headers]


def _dynamic(content, segments):
    entries = []
    for kind, offset, _, length in segments:
        if kind == PT_DYNAMIC:
            entries += struct.iter_unpack("<qQ", content[offset : offset + length - length % 16])
    return entries


def _strings(content, segments, dynamic):
    """The table of strings, at an address that a segment maps from the file."""
    found = dict(dynamic)
    if DT_STRTAB not in found:
        return b""
    address = found[DT_STRTAB]
    for kind, offset, start, length in segments:
        if kind == PT_LOAD and start <= address < start + length:
            at = offset + address - start
            return content[at : at + found[DT_STRSZ]]
    return b""


def _text(content, at):
    return content[at : content.index(b"\0", at)].decode()
