"""Container images as archives in the format of OCI, made without a daemon.

`docker load` and `podman load` read such an archive, and so do tools that copy an `oci-archive`. This file does not know
what is in an image.
"""

import datetime
import hashlib
import json
import pathlib

import reproducible

KIND = "application/vnd.oci.image"


def archive(name, tag, architecture, config, layers, time):
    """The bytes of an archive with one image. A layer is a list of entries as `reproducible.tar` takes them."""
    packed = [_layer(entries, time) for entries in layers]
    image = _image(architecture, config, [unpacked for _, unpacked in packed], time)
    files = _files(name, tag, architecture, image, [content for content, _ in packed])
    return reproducible.tar([(path, files[path], 0o644, 0) for path in sorted(files)], time)


def _layer(entries, time):
    """The bytes of a layer and the digest of what they unpack to. Folders that no entry names belong to root."""
    named = {path for path, *_ in entries}
    above = {str(parent) for path in named for parent in pathlib.PurePosixPath(path).parents} - {"."} - named
    whole = sorted([*entries, *((path, None, 0o755, 0) for path in above)], key=lambda entry: entry[0])
    unpacked = reproducible.tar(whole, time)
    return reproducible.gz(unpacked), _digest(unpacked)


def _image(architecture, config, layers, time):
    created = datetime.datetime.fromtimestamp(time, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _json(
        {
            "created": created,
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": layers},
            "history": [{"created": created, "created_by": "deploy/package"} for _ in layers],
        }
    )


def _files(name, tag, architecture, image, layers):
    """The files of the archive: its blobs, and two tables of contents, since docker reads one of its own."""
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{KIND}.manifest.v1+json",
            "config": _described("config.v1+json", image),
            "layers": [_described("layer.v1.tar+gzip", content) for content in layers],
        }
    )
    entry = _described("manifest.v1+json", manifest) | {
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {
            "io.containerd.image.name": f"docker.io/library/{name}:{tag}",
            "org.opencontainers.image.ref.name": tag,
        },
    }
    files = {_path(content): content for content in (image, manifest, *layers)}
    files["index.json"] = _json({"schemaVersion": 2, "mediaType": f"{KIND}.index.v1+json", "manifests": [entry]})
    files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    docker = {"Config": _path(image), "RepoTags": [f"{name}:{tag}"], "Layers": [_path(content) for content in layers]}
    files["manifest.json"] = _json([docker])
    return files


def _described(kind, content):
    return {"mediaType": f"{KIND}.{kind}", "digest": _digest(content), "size": len(content)}


def _digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _path(content):
    return f"blobs/{_digest(content).replace(':', '/')}"


def _json(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
