"""What the image of the program contains: the program alone, or with the libraries that it needs.

It has no shell and no certificate authorities: the program brings those that it believes receivers and registries by.
"""

import pathlib

import elf
import oci
from release import ROOT, Unfit

# The user of the image, by the number that other images without root use.
USER = 65532
ETC = {
    "etc/group": f"root:x:0:\noutbox:x:{USER}:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/passwd": f"root:x:0:0::/:/sbin/nologin\noutbox:x:{USER}:{USER}::/var/lib/outbox:/sbin/nologin\n",
}
# Folders of the image, each with its mode and owner.
FOLDERS = [("plugins", 0o755, 0), ("var/cache/outbox", 0o700, USER), ("var/lib/outbox", 0o700, USER)]
CONFIG = {
    "User": f"{USER}:{USER}",
    "ExposedPorts": {"7070/tcp": {}},
    "Env": ["PATH=/usr/bin", "OUTBOX_CACHE_DIR=/var/cache/outbox/compiled", "OUTBOX_PLUGINS=/plugins"],
    "Entrypoint": ["/usr/bin/outbox"],
    "Cmd": ["serve"],
    "WorkingDir": "/var/lib/outbox",
    "StopSignal": "SIGTERM",
}


def make(release, folders):
    """The archive. `folders` are searched for the libraries of a program that is not static."""
    labels = {
        "org.opencontainers.image.title": "outbox",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    layers = [layer for layer in (libraries(release.program, folders), _program(release)) if layer]
    config = {**CONFIG, "Labels": labels}
    content = oci.archive("outbox", release.version, release.machine(3), config, layers, release.time)
    return {f"{release.name}-oci.tar": content}


def libraries(program, folders):
    """The loader at the path that the program names, and each library that it needs, directly or not, in /usr/lib."""
    found, missing = {}, list(program.needed)
    while missing:
        name = missing.pop()
        path = next((pathlib.Path(folder, name) for folder in folders if pathlib.Path(folder, name).exists()), None)
        if path is None:
            raise Unfit(f"the image needs {name}, which is in none of {', '.join(map(str, folders))}")
        content = path.read_bytes()
        is_loader = program.loader is not None and program.loader.endswith(f"/{name}")
        found[program.loader.lstrip("/") if is_loader else f"usr/lib/{name}"] = content
        known = {pathlib.Path(path).name for path in found}
        missing += [needed for needed in elf.read(content).needed if needed not in known and needed not in missing]
    return [(path, found[path], 0o755, 0) for path in sorted(found)]


def _program(release):
    files = [(path, text.encode(), 0o644, 0) for path, text in ETC.items()]
    files.append(("usr/bin/outbox", release.binary, 0o755, 0))
    files.append(("usr/share/doc/outbox/LICENSE", (ROOT / "LICENSE").read_bytes(), 0o644, 0))
    return [*files, *((path, None, mode, owner) for path, mode, owner in FOLDERS)]
