"""The Python wheel: an installer puts the program beside the scripts of an environment.

Its name is not `outbox`, which belongs to somebody else on PyPI, so that no upgrade replaces the one by the other.
"""

import base64
import hashlib

import reproducible
from release import ROOT

NAME = "outbox_host"


def make(release):
    tag = f"py3-none-{release.machine(4).format(glibc=release.program.glibc)}"
    metadata = f"Metadata-Version: 2.1\nName: outbox-host\nVersion: {release.version}\n"
    metadata += "Summary: A durable outbox whose side-effect handlers are WebAssembly components\n"
    metadata += "License: Apache-2.0\nRequires-Python: >=3.8\n"
    info = f"{NAME}-{release.version}.dist-info"
    files = {
        f"{NAME}-{release.version}.data/scripts/outbox": (release.binary, 0o755),
        f"{info}/METADATA": (metadata.encode(), 0o644),
        f"{info}/WHEEL": (f"Wheel-Version: 1.0\nGenerator: outbox\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(), 0o644),
        f"{info}/licenses/LICENSE": ((ROOT / "LICENSE").read_bytes(), 0o644),
    }
    record = "".join(f"{path},{_digest(content)},{len(content)}\n" for path, (content, _) in files.items())
    files[f"{info}/RECORD"] = (f"{record}{info}/RECORD,,\n".encode(), 0o644)
    entries = [(path, content, mode) for path, (content, mode) in files.items()]
    return {f"{NAME}-{release.version}-{tag}.whl": reproducible.zipped(entries, release.time)}


def _digest(content):
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
