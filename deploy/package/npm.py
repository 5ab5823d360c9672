"""The npm package: `bin` leads straight to the program, so node starts no second process."""

import json

import reproducible
from release import ROOT


def make(release):
    about = {
        "name": "outbox-host",
        "version": release.version,
        "description": "A durable outbox whose side-effect handlers are WebAssembly components",
        "license": "Apache-2.0",
        "private": True,
        "bin": {"outbox": "bin/outbox"},
        "os": ["linux"],
        "cpu": [release.machine(2)],
        "libc": ["glibc" if release.is_gnu else "musl"],
    }
    files = {
        "package/LICENSE": ((ROOT / "LICENSE").read_bytes(), 0o644),
        "package/bin/outbox": (release.binary, 0o755),
        "package/package.json": (json.dumps(about, indent=2).encode() + b"\n", 0o644),
    }
    entries = [(path, *files[path], 0) for path in sorted(files)]
    return {f"{release.name}-npm.tgz": reproducible.gz(reproducible.tar(entries, release.time))}
