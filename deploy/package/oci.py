"""The container image as an OCI archive, made without a daemon: the program alone, or with the libraries that it needs.

`docker load` and `podman load` read the archive, and so do tools that copy an `oci-archive`. The image has no shell and
no certificates: the program brings the public certificate authorities.
"""

import datetime
import hashlib
import json
import pathlib

import elf
import reproducible
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
    libraries = _libraries(release.program, folders)
    layers = [_layer(part, release.time) for part in (libraries, _program(release)) if part]
    image = _image(release, layers)
    return {f"{release.name}-oci.tar": reproducible.tar(_archive(release, image, layers), release.time)}


def _libraries(program, folders):
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
    return sorted([*files, *((path, None, mode, owner) for path, mode, owner in FOLDERS)])


def _layer(entries, time):
    """The bytes of a layer and the digest of what they unpack to. Folders that no entry names belong to root."""
    named = {path for path, *_ in entries}
    above = {str(parent) for path in named for parent in pathlib.PurePosixPath(path).parents} - {"."} - named
    whole = sorted([*entries, *((path, None, 0o755, 0) for path in above)], key=lambda entry: entry[0])
    unpacked = reproducible.tar(whole, time)
    return reproducible.gz(unpacked), _digest(unpacked)


def _image(release, layers):
    created = datetime.datetime.fromtimestamp(release.time, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {
        "org.opencontainers.image.title": "outbox",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    return _json(
        {
            "created": created,
            "architecture": release.machine(3),
            "os": "linux",
            "config": {**CONFIG, "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [unpacked for _, unpacked in layers]},
            "history": [{"created": created, "created_by": "deploy/package/oci.py"} for _ in layers],
        }
    )


def _archive(release, image, layers):
    """The files of the archive: its blobs, and two tables of contents, since docker reads one of its own."""
    kind = "application/vnd.oci.image"
    packed = [content for content, _ in layers]
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _described(f"{kind}.config.v1+json", image),
            "layers": [_described(f"{kind}.layer.v1.tar+gzip", content) for content in packed],
        }
    )
    name = f"outbox:{release.version}"
    entry = _described(f"{kind}.manifest.v1+json", manifest) | {
        "platform": {"architecture": release.machine(3), "os": "linux"},
        "annotations": {
            "io.containerd.image.name": f"docker.io/library/{name}",
            "org.opencontainers.image.ref.name": release.version,
        },
    }
    files = {_path(content): content for content in (image, manifest, *packed)}
    index = {"schemaVersion": 2, "mediaType": f"{kind}.index.v1+json", "manifests": [entry]}
    files["index.json"] = _json(index)
    files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    docker = {"Config": _path(image), "RepoTags": [name], "Layers": [_path(content) for content in packed]}
    files["manifest.json"] = _json([docker])
    return [(path, files[path], 0o644, 0) for path in sorted(files)]


def _described(kind, content):
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _path(content):
    return f"blobs/{_digest(content).replace(':', '/')}"


def _json(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
