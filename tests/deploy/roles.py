"""Runs the roles of docs/deploying.md as processes of this machine, and checks what the page promises (`make demo-roles`).

    roles.py OUTBOX HANDLERS

The variables of each process are those that the chart makes of the values on that page; paths, ports and the registry are
of this machine instead of a cluster. PostgreSQL and the registry are real. HANDLERS has the components and manifests of
both roles.
"""

import base64
import collections
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import yaml

import program
import rendering
import rules

sys.path.insert(0, str(program.ROOT / "bench/peers"))
import cluster

HANDLERS = {"vector": "vector-upsert", "belief": "belief-recompute"}
TYPES = {"vector": "vector_upsert", "belief": "belief_recompute"}
# Where files of a pod are on this machine, below the folder of the role.
PLACES = {"/etc/outbox/": "etc/", "/plugins": "plugins", "/manifests": "manifests", "/var/cache/outbox/": "cache/"}
# The registry of the values on the page.
REGISTRY = "registry.example"
# The user `ada` with the password `hunter2`, as `htpasswd` writes both.
USER, PASSWORD = "ada", "hunter2"
USERS = "ada:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n"
# Seconds after which a step has failed.
PATIENCE = 60
# Seconds between two writes of the load.
PAUSE = 0.02


def until(holds, what):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} seconds"
        time.sleep(0.1)


class Receiver:
    """The service that one role calls. It counts how often each idempotency key arrives."""

    def __init__(self):
        self.keys = collections.Counter()
        receiver = self

        class Accepts(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                receiver.keys[self.headers["Idempotency-Key"]] += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Accepts)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()


class Registry:
    """The registry that the roles pull their handlers from. It asks for a user and a password."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        self.host = f"127.0.0.1:{cluster.free_port()}"
        folder.mkdir()
        (folder / "users").write_text(USERS)
        (folder / "registry.yml").write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
            f"http: {{addr: '{self.host}'}}\nauth: {{htpasswd: {{realm: demo, path: {folder / 'users'}}}}}\n"
        )
        kept = program.ROOT / "target/docker-registry/usr/bin/docker-registry"
        self.words = [kept if kept.exists() else "docker-registry", "serve", folder / "registry.yml"]
        self.start()

    def start(self):
        with (self.folder / "registry.log").open("a") as log:
            environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
            self.process = subprocess.Popen(self.words, env=environment, stdout=log, stderr=log)
        until(self.answers, "the registry answers")

    def answers(self):
        host, port = self.host.split(":")
        with contextlib.suppress(OSError):
            return not socket.create_connection((host, int(port)), 5).close()

    def stop(self):
        self.process.kill()
        self.process.wait()

    def credentials(self):
        """A file as `docker login` writes it."""
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return json.dumps({"auths": {self.host: {"auth": pair}}})


class Pod:
    """One process of a role, as a pod would run it."""

    def __init__(self, stage, role, number):
        self.port = cluster.free_port()
        folder = stage.folder / role
        variables = {**stage.variables(role), "OUTBOX_LISTEN": f"127.0.0.1:{self.port}"}
        variables["OUTBOX_CACHE_DIR"] = str(folder / f"cache-{number}")
        self.name = f"{role}-{number}"
        self.log = stage.folder / f"{self.name}.log"
        with self.log.open("a") as log:
            words = [stage.outbox, stage.commands[role]]
            self.process = subprocess.Popen(words, env={"HOSTNAME": self.name, **variables}, stdout=log, stderr=log)
        until(self.is_ready, f"{self.name} becomes ready")

    def is_ready(self):
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status == 200

    def stop(self):
        """Ends the process as the kubelet does, within its grace period."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()


class Stage:
    """The store, the receivers and the processes of all roles."""

    def __init__(self, folder, outbox, handlers, server, url):
        self.folder, self.outbox, self.server, self.url = folder, outbox, server, url
        self.handlers, self.registry = handlers, Registry(folder / "registry")
        self.receivers = {role: Receiver() for role in HANDLERS}
        self.pods = collections.defaultdict(list)
        self.token = None
        rendered = rendering.chart(self._values())
        containers = {
            found["metadata"]["labels"]["app.kubernetes.io/component"]: rules.pod_spec(found)["containers"][0]
            for found in rendered
            if found["kind"] == "Deployment"
        }
        self.commands = {role: container["args"][0] for role, container in containers.items()}
        self.given = {role: rules.variables(container) for role, container in containers.items()}
        for role in containers:
            self._files(role)

    def _values(self):
        page = (program.ROOT / "docs/deploying.md").read_text()
        return yaml.safe_load(page.split("```yaml\n# values.yaml\n")[1].split("```")[0])

    def _files(self, role):
        """The volumes of the role's pods."""
        folder = self.folder / role
        (folder / "plugins").mkdir(parents=True)
        secrets = {"database/url": self.url, "tokens/tokens.toml": self._tokens(), "session-key/session-key": "k" * 64}
        secrets["registry/config.json"] = self.registry.credentials()
        for path, text in secrets.items():
            file = folder / "etc" / path
            file.parent.mkdir(parents=True)
            file.write_text(text)
            file.chmod(0o600)
        if role in HANDLERS:
            (folder / "manifests").mkdir()
            shutil.copy(self.handlers / f"{HANDLERS[role]}.toml", folder / "manifests")

    def _tokens(self):
        if self.token is None:
            self.token = os.urandom(16).hex()
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        return f'[[tokens]]\nname = "orders"\nrole = "enqueue"\nsha256 = "{digest}"\n'

    def variables(self, role):
        """The variables that the chart gives the role, with the places and receivers of this machine."""
        found = {}
        for name, value in self.given[role].items():
            for prefix, place in PLACES.items():
                if value.startswith(prefix):
                    value = f"{self.folder / role}/{place}{value.removeprefix(prefix)}"
            found[name] = value.replace(f"oci://{REGISTRY}/", f"oci://{self.registry.host}/")
        found["OUTBOX_REGISTRY_POLL"] = "1s"
        found |= {f"{other.upper()}_URL": receiver.url for other, receiver in self.receivers.items() if other == role}
        return found

    def push(self, role, component):
        """Lets the tag of the role's handler name a component. Returns the digests of its image and of itself."""
        file = self.folder / f"{HANDLERS[role]}.wasm"
        file.write_bytes(component)
        image = self.variables(role)["OUTBOX_PLUGINS"]
        pushed = json.loads(self.command("plugin", "push", file, image, "--json"))
        return pushed["digest"], pushed["component"]

    def component(self, role):
        return (self.handlers / f"{HANDLERS[role]}.wasm").read_bytes()

    def command(self, *words):
        auth = self.folder / "vector/etc/registry/config.json"
        environment = {**os.environ, "OUTBOX_DB": self.url, "OUTBOX_REGISTRY_AUTH_FILE": str(auth)}
        done = subprocess.run([self.outbox, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def scale(self, role, count):
        pods = self.pods[role]
        while len(pods) > count:
            pods.pop().stop()
        while len(pods) < count:
            pods.append(Pod(self, role, len(pods)))

    def statuses(self):
        """How many items of each type and status the store has."""
        query = "SELECT type, status, count(*) FROM outbox.status GROUP BY 1, 2"
        rows = subprocess.run([self.server.psql, "-XqAtF,", "-d", self.url, "-c", query], capture_output=True, text=True)
        return {tuple(row.split(",")[:2]): int(row.split(",")[2]) for row in rows.stdout.split()}

    def images(self, role, state):
        """The images of the role's plugins in this state."""
        plugins = json.loads(self.command("plugin", "list", "--json"))
        return {found["image"] for found in plugins if found["pod"].startswith(role) and found["state"] == state}

    def digests(self, role):
        """Which component each process of the role runs, by the names of the processes."""
        plugins = json.loads(self.command("plugin", "list", "--json"))
        active = [found for found in plugins if found["state"] == "active"]
        return {found["pod"]: found["digest"] for found in active if found["pod"].startswith(role)}


class Load(threading.Thread):
    """An application that writes to the edge all the time, and repeats a write that was not answered."""

    def __init__(self, stage):
        super().__init__(daemon=True)
        self.stage, self.written, self.refusal, self.ends = stage, 0, None, threading.Event()

    def run(self):
        while not self.ends.wait(PAUSE):
            self.write(f"order-{self.written}")
            self.written += 1

    def write(self, key):
        headers = {"Authorization": f"Bearer {self.stage.token}", "Idempotency-Key": key, "X-Correlation-ID": key}
        headers["Content-Type"] = "application/json"
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for pod in list(self.stage.pods["edge"]):
                request = urllib.request.Request(f"http://127.0.0.1:{pod.port}/memory", b'{"memory": 1}', headers)
                try:
                    return urllib.request.urlopen(request, timeout=10).close()
                except OSError as error:
                    self.refusal = error
        raise AssertionError(f"{key} was not accepted: {self.refusal}")

    def end(self):
        self.ends.set()
        self.join()


def say(words):
    print(f"- {words}", flush=True)


def newer(component):
    """The same component with another digest, as a new build has: with a custom section of WebAssembly more."""
    name = b"build"
    content = bytes([len(name)]) + name + b"2"
    return component + bytes([0, len(content)]) + content


def walk(stage):
    vector, belief = stage.receivers["vector"], stage.receivers["belief"]
    waiting = lambda role: stage.statuses().get((TYPES[role], "PENDING"), 0)

    say("the store is migrated, and the edge takes writes before any role has a process")
    stage.command("migrate")
    stage.scale("edge", 2)
    load = Load(stage)
    load.start()
    until(lambda: waiting("vector") > 20 and waiting("belief") > 20, "items of both roles wait")
    assert not vector.keys and not belief.keys, "the edge has no handlers"

    say("both handlers are pushed to the registry")
    first, _ = stage.push("vector", stage.component("vector"))
    stage.push("belief", stage.component("belief"))

    say("vector (3 processes) and belief (1) start: each pulls its own handlers and handles their items")
    stage.scale("vector", 3)
    stage.scale("belief", 1)
    until(lambda: len(vector.keys) > 100 and len(belief.keys) > 100, "both receivers are called")

    say("vector is scaled to 0: its items wait, and belief goes on")
    stage.scale("vector", 0)
    done = len(belief.keys), len(vector.keys)
    until(lambda: len(belief.keys) > done[0] + 50, "belief goes on")
    assert len(vector.keys) == done[1], "vector was called without a process"
    assert waiting("vector") > 20

    say("vector is scaled to 2, and works off what waited")
    stage.scale("vector", 2)
    until(lambda: waiting("vector") < 20, "the items of vector are done")

    say("the tag of vector's handler is moved to a new version; belief stays as it is")
    before, others = stage.digests("vector"), stage.digests("belief")
    second, digest = stage.push("vector", newer(stage.component("vector")))
    runs = lambda wanted: set(stage.digests("vector").values()) == wanted and len(stage.digests("vector")) == len(before)
    until(lambda: runs({digest}), "every process of vector runs the new version")
    count = len(vector.keys)
    until(lambda: len(vector.keys) > count + 50, "the new version works")

    say("vector is rolled back: its processes return to the version before, and the image of the tag is quarantined")
    stage.command("plugin", "rollback", "vector-upsert", "--reason", "the demonstration goes back")
    until(lambda: runs(set(before.values())), "every process of vector runs the version before")
    assert digest in stage.command("plugin", "quarantine", "--json")
    shows = lambda state, image: all(found.endswith(f"@{image}") for found in stage.images("vector", state) or [""])
    until(lambda: shows("quarantined", second) and shows("active", first), "both images are shown")
    assert stage.digests("belief") == others, "belief was changed"

    say("the registry is stopped: processes of vector are replaced, and run the last good version")
    stage.registry.stop()
    stage.scale("vector", 0)
    stage.scale("vector", 2)
    until(lambda: runs(set(before.values())), "every process of vector runs the last good version")
    count = len(vector.keys)
    until(lambda: len(vector.keys) > count + 50, "the last good version works")

    say("the registry is back, and the tag is moved back: nothing is quarantined any more")
    stage.registry.start()
    assert stage.push("vector", stage.component("vector"))[0] == first, "the same component is the same image"
    until(lambda: not stage.images("vector", "quarantined"), "the tag names a version that works")
    assert runs(set(before.values()))

    say("the edge is replaced, one process after the other, while the application writes")
    for _ in range(2):
        stage.pods["edge"].append(Pod(stage, "edge", len(stage.pods["edge"]) + 2))
        stage.pods["edge"].pop(0).stop()

    say("the application stops: every item is done, and arrived at the receiver of its role")
    load.end()
    finished = {(kind, "DONE"): load.written for kind in TYPES.values()}
    until(lambda: stage.statuses() == finished, f"{load.written} writes are done")
    for receiver in (vector, belief):
        assert len(receiver.keys) == load.written, f"{len(receiver.keys)} of {load.written} keys arrived"
    repeated = sum(count - 1 for receiver in (vector, belief) for count in receiver.keys.values())
    say(f"{load.written} writes, {2 * load.written} items, {repeated} requests were repeated under the same key")


def main():
    outbox, handlers = (pathlib.Path(word).resolve() for word in sys.argv[1:])
    with contextlib.ExitStack() as held:
        folder = pathlib.Path(held.enter_context(tempfile.TemporaryDirectory()))
        server = held.enter_context(cluster.running(folder))
        stage = Stage(folder, outbox, handlers, server, held.enter_context(server.database()))
        held.callback(stage.registry.stop)
        held.callback(lambda: [pod.process.kill() for pods in stage.pods.values() for pod in pods])
        walk(stage)
        for role in stage.pods:
            stage.scale(role, 0)
    print("Every step held.")


if __name__ == "__main__":
    main()
