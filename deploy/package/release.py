"""One program that is to be packed: its bytes, its target, its version, and the files that go beside it."""

import dataclasses
import pathlib
import posixpath
import re

import elf
import reproducible

ROOT = pathlib.Path(__file__).resolve().parents[2]

# A target: the machine as ELF names it, Debian's, node's, that of container images, and the tag of wheels.
TARGETS = {
    "x86_64-gnu": ("x86_64", "amd64", "x64", "amd64", "manylinux_2_{glibc}_x86_64"),
    "x86_64-musl": ("x86_64", "amd64", "x64", "amd64", "musllinux_1_1_x86_64"),
    "aarch64-gnu": ("aarch64", "arm64", "arm64", "arm64", "manylinux_2_{glibc}_aarch64"),
    "aarch64-musl": ("aarch64", "arm64", "arm64", "arm64", "musllinux_1_1_aarch64"),
}
# A link to a file: its text, and the path of the file.
LINK = re.compile(r"\[([^\]\n]*)\]\(([^()\s:#]+)(?:#[^()\s]*)?\)")
TRIPLES = {target: target.replace("-", "-unknown-linux-") for target in TARGETS}


class Unfit(Exception):
    """Why a program cannot be packed for a target."""


@dataclasses.dataclass
class Release:
    target: str
    binary: bytes
    program: elf.Elf
    version: str
    # Seconds: the time that every packed file has.
    time: int
    # Documents, completions and manual pages, by their paths below a prefix such as /usr.
    extras: dict[str, bytes]

    @property
    def name(self):
        return f"outbox-{self.version}-{self.target}"

    @property
    def is_gnu(self):
        return self.target.endswith("-gnu")

    def machine(self, place):
        """The name of the machine in a place of TARGETS."""
        return TARGETS[self.target][place]


def documents():
    """The documents for operators, as they lie below a prefix such as /usr."""
    files = [ROOT / name for name in ("CHANGELOG.md", "README.md", "SECURITY.md")]
    files += sorted(path for path in (ROOT / "docs").rglob("*") if path.is_file())
    found = {str(path.relative_to(ROOT)): path.read_bytes() for path in files}
    return {f"share/doc/outbox/{path}": _without_dead_links(path, content, found) for path, content in found.items()}


def _without_dead_links(path, content, packed):
    """A document that links to packed files only. Of any other file it says where the repository has it."""
    if not path.endswith(".md"):
        return content

    def linked(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))
        is_packed = target in packed or any(other.startswith(f"{target}/") for other in packed)
        if is_packed:
            return match[0]
        place = f"`{target}` in the repository"
        return place if target.endswith(match[1].strip("`")) else f"{match[1]} ({place})"

    return LINK.sub(linked, content.decode()).encode()


def load(binary, target, extras):
    content = pathlib.Path(binary).read_bytes()
    try:
        program = elf.read(content)
    except elf.NotElf as problem:
        raise Unfit(f"{binary}: {problem}") from problem
    if program.machine != TARGETS[target][0]:
        raise Unfit(f"{binary} is for {program.machine}, and the target is {target}")
    if (program.glibc is not None) != target.endswith("-gnu"):
        raise Unfit(f"{binary} {'needs' if program.glibc else 'does not need'} glibc, and the target is {target}")
    files = {**documents(), **_files(extras)}
    return Release(target, content, program, version(), reproducible.epoch(ROOT), files)


def version():
    return re.search(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def _files(folder):
    if folder is None:
        return {}
    folder = pathlib.Path(folder)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return dict(_packed(str(path.relative_to(folder)), path.read_bytes()) for path in found)


def _packed(path, content):
    """Manual pages are compressed, as systems keep them."""
    return (f"{path}.gz", reproducible.gz(content)) if path.startswith("share/man/") else (path, content)
