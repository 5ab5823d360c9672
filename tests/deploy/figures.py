"""Prints the sizes of the packages of dist/, and how soon a host of each is ready (`make dist-figures`, as root).

    figures.py DIST HANDLERS

A start is the time from the start of the process until `GET /readyz` answers 200, with a SQLite file and the components
of HANDLERS. The first start compiles the components and makes the file; later ones are the median of five. The figures
are of this machine; packages of other processors have only a size.
"""

import http.client
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from bare_root import LISTEN, MACHINE, USER, only, run, unpack

LATER = 5


def ready_after(words, environment):
    """Starts a host, waits until it is ready, and stops it. Returns the milliseconds until it was ready."""
    begun = time.monotonic()
    environment = {**os.environ, **environment, "PATH": os.environ["PATH"]}
    process = subprocess.Popen([str(word) for word in words], env=environment, stderr=subprocess.PIPE)
    while not is_ready():
        assert process.poll() is None, f"{words} ended: {process.stderr.read().decode()}"
        time.sleep(0.001)
    ready = time.monotonic() - begun
    process.terminate()
    process.communicate(timeout=60)
    return ready * 1000


def is_ready():
    connection = http.client.HTTPConnection(LISTEN, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def starts(words, environment):
    """The first start and the median of later ones, in milliseconds."""
    first = ready_after(words, environment)
    return first, statistics.median(ready_after(words, environment) for _ in range(LATER))


def unpacked(package, place):
    run("tar", "-xzf", package, "-C", place)
    return only(place, "*/bin/outbox")


def from_wheel(package, place):
    run(sys.executable, "-m", "venv", place / "venv")
    run(place / "venv/bin/pip", "install", "--quiet", "--no-index", package)
    return place / "venv/bin/outbox"


def from_npm(package, place):
    run("npm", "install", "--silent", "--prefix", place, package)
    return place / "node_modules/.bin/outbox"


PROGRAMS = {
    f"*-{MACHINE}-gnu.tar.gz": unpacked,
    f"*-{MACHINE}-musl.tar.gz": unpacked,
    f"*manylinux*_{MACHINE}.whl": from_wheel,
    f"*-{MACHINE}-gnu-npm.tgz": from_npm,
}


def of_program(package, install, handlers, place):
    words = [install(package, place), "serve"]
    folders = {"OUTBOX_DB": str(place / "db.sqlite"), "OUTBOX_CACHE_DIR": str(place / "cache")}
    return starts(words, {**folders, "OUTBOX_PLUGINS": str(handlers)})


def of_image(package, handlers, place):
    """A host whose root file system is the image's."""
    variables = unpack(package, place)
    (place / "plugins").mkdir(exist_ok=True)
    mount = f"mount --bind {handlers} {place}/plugins"
    for name in ("lib", "cache"):
        folder = place / f"var/{name}/outbox"
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, USER, USER)
    serve = f"exec chroot --userspec={USER}:{USER} {place} /usr/bin/outbox serve"
    words = ["unshare", "--mount", "sh", "-ec", f"{mount}\n{serve}"]
    return starts(words, {**variables, "OUTBOX_DB": "/var/lib/outbox/outbox.sqlite"})


def figures(dist, handlers):
    """The first and the later starts of the packages that can be started here, by file."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for number, (package, start) in enumerate(started(dist, handlers)):
            folder = pathlib.Path(place) / str(number)
            folder.mkdir()
            pathlib.Path(place).chmod(0o755)
            found[package] = start(folder)
    return found


def started(dist, handlers):
    for pattern, install in PROGRAMS.items():
        for package in dist.glob(pattern):
            yield package, lambda place, package=package, install=install: of_program(package, install, handlers, place)
    for package in dist.glob(f"*-{MACHINE}-*-oci.tar"):
        yield package, lambda place, package=package: of_image(package, handlers, place)


def main():
    dist, handlers = (pathlib.Path(word).resolve() for word in sys.argv[1:])
    os.environ.update(OUTBOX_LISTEN=LISTEN, OUTBOX_ENABLED="true")
    os.environ.update({f"{name}_URL": "http://127.0.0.1:9/" for name in ("WEBHOOK", "VECTOR", "BELIEF")})
    found = figures(dist, handlers)
    print("| file | MB | first start | later starts |\n|---|---|---|---|")
    for package in sorted(dist.iterdir()):
        starts = "".join(f" {time:,.0f} ms |" for time in found.get(package, ())) or " – | – |"
        print(f"| `{package.name}` | {package.stat().st_size / 1e6:,.1f} |{starts}")


if __name__ == "__main__":
    main()
