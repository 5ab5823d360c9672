"""The chart as a file that helm installs."""

import reproducible
from release import ROOT, version

CHART = ROOT / "deploy/helm/outbox"


def make():
    files = sorted(path for path in CHART.rglob("*") if path.is_file())
    entries = [(f"outbox/{path.relative_to(CHART)}", path.read_bytes(), 0o644, 0) for path in files]
    packed = reproducible.gz(reproducible.tar(entries, reproducible.epoch(ROOT)))
    return {f"outbox-{version()}-chart.tgz": packed}
