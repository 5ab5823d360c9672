"""The tarball: the program with its units, settings, documents and completions, to be copied by hand."""

import reproducible
from release import ROOT

BESIDE = {
    "LICENSE": "LICENSE",
    "etc/outbox/outbox.toml": "deploy/debian/outbox.toml",
    "lib/systemd/system/outbox.service": "deploy/systemd/outbox.service",
    "lib/systemd/system/outbox@.service": "deploy/systemd/outbox@.service",
}


def make(release):
    files = {"bin/outbox": release.binary, **release.extras}
    files |= {path: (ROOT / source).read_bytes() for path, source in BESIDE.items()}
    modes = {"bin/outbox": 0o755}
    entries = [(f"{release.name}/{path}", files[path], modes.get(path, 0o644), 0) for path in sorted(files)]
    return {f"{release.name}.tar.gz": reproducible.gz(reproducible.tar(entries, release.time))}
