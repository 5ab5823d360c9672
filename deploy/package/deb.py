"""The Debian package: the program, its settings, its units, and scripts that keep the database. Built by dpkg-deb."""

import os
import pathlib
import subprocess
import tempfile

from release import ROOT

SCRIPTS = ("postinst", "prerm", "postrm")
COPYRIGHT = "License: Apache-2.0\nThe text is in /usr/share/common-licenses/Apache-2.0.\n"


def make(release):
    with tempfile.TemporaryDirectory() as place:
        tree, package = pathlib.Path(place, "tree"), pathlib.Path(place, "outbox.deb")
        for path, (content, mode) in _files(release).items():
            _write(tree / path, content, mode)
        _write(tree / "DEBIAN/control", _control(release, tree), 0o644)
        for folder in [tree, *filter(pathlib.Path.is_dir, tree.rglob("*"))]:
            folder.chmod(0o755)
        build = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, package]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(release.time)}
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, env=environment)
        return {f"{release.name}.deb": package.read_bytes()}


def _files(release):
    files = {
        "usr/bin/outbox": (release.binary, 0o755),
        "usr/lib/systemd/system/outbox.service": (_source("systemd/outbox.service"), 0o644),
        "usr/lib/systemd/system/outbox@.service": (_source("systemd/outbox@.service"), 0o644),
        "etc/outbox/outbox.toml": (_source("debian/outbox.toml"), 0o644),
        "usr/share/doc/outbox/copyright": (COPYRIGHT.encode(), 0o644),
        "DEBIAN/conffiles": (_source("debian/conffiles"), 0o644),
    }
    files |= {f"usr/{path}": (content, 0o644) for path, content in release.extras.items()}
    return files | {f"DEBIAN/{name}": (_source(f"debian/{name}"), 0o755) for name in SCRIPTS}


def _source(path):
    return (ROOT / "deploy" / path).read_bytes()


def _write(path, content, mode):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _control(release, tree):
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    text = _source("debian/control").decode()
    fields = {"version": release.version, "architecture": release.machine(1), "glibc": f"2.{release.program.glibc}"}
    return text.format(size=size // 1024 + 1, **fields).encode()
