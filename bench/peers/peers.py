"""The peers: their requirements, their installation, and the commands that run one round of work."""

import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


class Missing(Exception):
    """A requirement of a peer is missing or does not work."""


def need(tool, for_what):
    path = shutil.which(tool)
    if path is None:
        raise Missing(f"`{tool}` is not installed; {for_what} needs it")
    return path


def run(*command, **options):
    """Runs a command. Its output is shown only when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Missing(f"`{' '.join(map(str, command))}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def copied(folder, name):
    """Copies a driver's sources again and keeps its installed dependencies."""
    target = folder / name
    shutil.copytree(HERE / name, target, dirs_exist_ok=True)
    return target


def of_npm(folder, name):
    node, npm = need("node", name), need("npm", name)
    home = copied(folder, name)
    if not (home / "node_modules").is_dir():
        try:
            run(npm, "ci", "--no-audit", "--no-fund", cwd=home)
        except Missing:
            shutil.rmtree(home / "node_modules", ignore_errors=True)
            raise
    return [node, home / "drive.mjs"]


def plainjob(folder):
    return of_npm(folder, "plainjob")


def graphile_worker(folder):
    return of_npm(folder, "graphile-worker")


def huey(folder):
    home = copied(folder, "huey")
    python = home / "venv" / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", home / "venv")
        run(python, "-m", "pip", "install", "-q", "--require-hashes", "-r", home / "requirements.txt")
    return [python, home / "drive.py"]


def apalis(folder):
    cargo = need("cargo", "apalis-sqlite")
    home = copied(folder, "apalis")
    run(cargo, "build", "--release", "--locked", "--target-dir", home / "target", cwd=home)
    return [home / "target" / "release" / "peer-apalis"]


ON_SQLITE = {"plainjob": plainjob, "huey": huey, "apalis-sqlite": apalis}
ON_POSTGRES = {"graphile-worker": graphile_worker}
