"""The bill of materials in CycloneDX: every crate that the program for a target is built from, out of `cargo metadata`."""

import datetime
import json
import os
import subprocess
import uuid

from release import ROOT, TRIPLES


def make(release):
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--format-version", "1", "--locked"]
    command += ["--filter-platform", TRIPLES[release.target]]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return {f"{release.name}-sbom.cdx.json": bill(release, json.loads(done.stdout))}


def bill(release, metadata):
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = {node["id"]: sorted(_used(node)) for node in metadata["resolve"]["nodes"]}
    (root,) = [found for found, package in packages.items() if package["name"] == "outbox"]
    reached = sorted(_reached(root, edges), key=lambda found: _reference(packages[found]))
    moment = datetime.datetime.fromtimestamp(release.time, datetime.timezone.utc)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{release.name}:{release.time}')}",
        "version": 1,
        "metadata": {
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": _component(packages[root], "application"),
        },
        "components": [_component(packages[found], "library") for found in reached if found != root],
        "dependencies": [
            {"ref": _reference(packages[found]), "dependsOn": sorted(_reference(packages[to]) for to in edges[found])}
            for found in reached
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _used(node):
    """The packages of which code is in the program, or runs when it is built. Tests bring others."""
    return {to["pkg"] for to in node["deps"] if any(kind["kind"] in (None, "build") for kind in to["dep_kinds"])}


def _reached(root, edges):
    reached, rest = set(), [root]
    while rest:
        found = rest.pop()
        if found not in reached:
            reached.add(found)
            rest += edges[found]
    return reached


def _reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def _component(package, kind):
    component = {"type": kind, "bom-ref": _reference(package), "name": package["name"], "version": package["version"]}
    if package["source"]:
        component["purl"] = _reference(package)
    if package["license"]:
        component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    return component
