"""An image that contains handlers and nothing else, for a volume of Kubernetes: `roles[].plugins.image` of the chart."""

import re

import oci
import reproducible
from release import ROOT, Unfit

NAME = re.compile(r"(?P<name>[a-z0-9][a-z0-9._/-]*):(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]*)")
ENDS = (".wasm", ".toml", ".wasm.minisig")


def make(folder, reference):
    """The archive of the components in a folder, with the manifests and signatures beside them."""
    named = NAME.fullmatch(reference)
    if named is None:
        raise Unfit(f"{reference} is no name of an image with a tag, such as vector-handlers:1.0.0")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(ENDS) and not path.name.startswith("."))
    if not any(path.suffix == ".wasm" for path in files):
        raise Unfit(f"{folder} has no component: no file ends with .wasm")
    layer = [(path.name, path.read_bytes(), 0o644, 0) for path in files]
    # Components run on every machine, but an image names one; a volume takes the image whatever it says.
    return oci.archive(named["name"], named["tag"], "amd64", {}, [layer], reproducible.epoch(ROOT))
