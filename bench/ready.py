"""The time from the start of a host until it is ready, with plugins that `outbox plugin compile` has compiled.

Each plugin is the component with a section of its own, so that it has code of its own in the cache, and handles a type
of its own. A round is one start on the same database, to the first answer 200 of `/readyz`; the first start, which makes
the database, is not counted.

    python3 ready.py OUTBOX COMPONENT [--plugins COUNT] [--rounds COUNT]
"""

import argparse
import contextlib
import http.client
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

# The variable that the manifest of the component refers to. Nothing is sent.
VARIABLES = {"WEBHOOK_URL": "http://127.0.0.1:9/"}
# Seconds between two questions to a host that is not ready.
PAUSE = 0.0005
# Seconds after which a host takes a file for complete at its first look, as it does with the files of an image. It looks
# at younger ones again after 100 ms.
SETTLED = 11
# Seconds after which a start has failed.
PATIENCE = 60


def variant(component, number):
    """The component with a custom section: id 0, its length, the length of its name, its name, the number."""
    return component + bytes([0, 4, 2]) + b"no" + bytes([number])


def fill(folder, file, count):
    component, manifest = file.read_bytes(), file.with_suffix(".toml").read_text()
    for number in range(count):
        name = folder / f"plugin-{number}"
        name.with_suffix(".wasm").write_bytes(variant(component, number))
        name.with_suffix(".toml").write_text(f'{manifest}\n[types]\nplugin-{number} = "{file.stem}"\n')


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


def is_ready(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (ConnectionError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def start(program, variables, log):
    """Milliseconds until a host is ready."""
    port = free_port()
    begun = time.perf_counter()
    variables = variables | {"OUTBOX_LISTEN": f"127.0.0.1:{port}"}
    with subprocess.Popen([program, "serve"], env=variables, stdout=log, stderr=log) as host:
        try:
            while not is_ready(port):
                if host.poll() is not None or time.perf_counter() - begun > PATIENCE:
                    sys.exit(f"the host does not become ready: see {log.name}")
                time.sleep(PAUSE)
            return (time.perf_counter() - begun) * 1000
        finally:
            host.terminate()


def serving(program, variables, count):
    """Ends the program unless all plugins are active: a host is ready too when it has refused them."""
    told = subprocess.run([program, "plugin", "list", "--json"], env=variables, check=True, capture_output=True, text=True)
    if told.stdout.count('"active"') != count:
        sys.exit(f"not all of the {count} plugins are loaded:\n{told.stdout}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("component", type=pathlib.Path)
    parser.add_argument("--plugins", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    program = args.program.resolve()
    with tempfile.TemporaryDirectory() as place, open(pathlib.Path(place, "host.log"), "w") as log:
        folder = pathlib.Path(place, "plugins.d")
        folder.mkdir()
        fill(folder, args.component, args.plugins)
        settings = {"OUTBOX_ENABLED": "true", "OUTBOX_DB": f"{place}/outbox.sqlite", "OUTBOX_PLUGINS": str(folder)}
        variables = {"PATH": os.environ["PATH"], "OUTBOX_CACHE_DIR": f"{place}/cache"} | settings | VARIABLES
        subprocess.run([program, "plugin", "compile"], env=variables, check=True, stdout=subprocess.DEVNULL)
        start(program, variables, log)
        serving(program, variables, args.plugins)
        time.sleep(SETTLED)
        times = [start(program, variables, log) for _ in range(args.rounds)]
    print(
        f"{args.plugins} compiled plugins: ready after {statistics.median(times):.0f} ms (median of {args.rounds} starts; "
        f"{min(times):.0f} to {max(times):.0f} ms)"
    )


main()
