"""What the program itself says about its settings, commands, paths and end; read from its sources, so nothing is built.

It knows nothing about Kubernetes.
"""

import json
import math
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "host/outbox/src/config"


def read(path):
    return (ROOT / path).read_text()


def _defaults():
    """The default of each setting in the catalogue."""
    entry = re.compile(r'\bsetting\(\s*"([A-Z_]+)",\s*"([^"]*)"')
    return dict(entry.findall(read("host/outbox/src/config/catalog.rs")))


def _named_in_readme():
    """The variables in the settings table of the README, which also has those that are no setting of the catalogue."""
    section = read("README.md").split("\n## Settings\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([A-Z][A-Z_]+)`", row)}


def _paths():
    """The right that a GET of each path needs; `none` for those that need no token."""
    paths = json.loads(read("docs/openapi.json"))["paths"]
    return {path: found["get"]["x-right"] for path, found in paths.items() if "get" in found}


def _seconds_after_drain():
    """How many seconds after OUTBOX_DRAIN_SEC the process has ended in any case."""
    limit = r"PROCESS_MAX: Duration = Duration::from_millis\((\d+)\)"
    return math.ceil(int(re.search(limit, read("host/outbox/src/host/shutdown.rs"))[1]) / 1000)


DEFAULTS = _defaults()
VARIABLES = set(DEFAULTS) | _named_in_readme()
RIGHTS = _paths()
COMMANDS = set(re.findall(r'"([a-z]+)"', read("host/outbox/src/cli/groups.rs")))
SECONDS_AFTER_DRAIN = _seconds_after_drain()
PORT = int(DEFAULTS["OUTBOX_LISTEN"].rsplit(":", 1)[1])
VERSION = re.search(r'^version = "([^"]+)"', read("Cargo.toml"), re.M)[1]
