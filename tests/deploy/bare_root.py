"""Installs packages of dist/ where nothing of the outbox was before, and uses them (`make dist-check`, as root).

    bare_root.py DIST HANDLERS

The Debian package is installed into a new Debian system, upgraded, removed and purged; the image serves from a
read-only root file system; pipx and npx start the wheel and the npm package. HANDLERS has `webhook.wasm` and its
manifest. Each step is printed, and the first that fails ends the program.
"""

import contextlib
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request

import program

SUITE = "bookworm"
MACHINE = os.uname().machine
LISTEN, ROLE_LISTEN = "127.0.0.1:7099", "127.0.0.1:7098"
USER = 65532


def step(words):
    print(f"- {words}", flush=True)


def run(*words, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


def answer(path, token=None, listen=LISTEN):
    """The status and the body of a GET."""
    request = urllib.request.Request(f"http://{listen}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return None, ""


def until(holds, what, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what} did not happen in {seconds} seconds"
        time.sleep(0.1)


@contextlib.contextmanager
def receiver():
    """A service that accepts every request; yields its URL and the bodies that it got."""
    bodies = []

    class Accepts(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Accepts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", bodies
    server.shutdown()


@contextlib.contextmanager
def running(words, environment, log):
    environment = {**environment, "PATH": os.environ["PATH"]}
    with open(log, "w") as output:
        process = subprocess.Popen(list(map(str, words)), env=environment, stdout=output, stderr=output)
    try:
        until(lambda: process.poll() is not None or answer("/readyz")[0] == 200, "a start")
        assert process.poll() is None, pathlib.Path(log).read_text()
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0, pathlib.Path(log).read_text()


def unit(root, given):
    """The command of the unit in this root, as systemd starts it, and its variables."""
    text = (root / "usr/lib/systemd/system/outbox.service").read_text()
    (name, source), = re.findall(r"^LoadCredential=(\w+):(.*)$", text, re.M)
    credentials = root / "run/credentials/outbox.service"
    credentials.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / source.lstrip("/"), credentials / name)
    run("chown", "-R", "--reference", root / "var/lib/outbox", credentials)
    variables = dict(line.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.M))
    variables = {key: value.replace("%d", "/run/credentials/outbox.service") for key, value in variables.items()}
    command = re.search(r"^ExecStart=(.*)$", text, re.M)[1].split()
    words = ["chroot", "--userspec=outbox:outbox", root, *command]
    return running(words, {"OUTBOX_LISTEN": LISTEN, **variables, **given}, root / "log")


def enqueue(root, key):
    """Enqueues as an application does: by SQL, with the rights of the host's user."""
    code = "import sqlite3,sys\nwith sqlite3.connect(sys.argv[1]) as db:\n db.execute(sys.argv[2], (sys.argv[3],))"
    insert = """INSERT INTO outbox_items (type, idem_key, payload) VALUES ('webhook', ?, '{"order": 17}')"""
    owner = os.stat(root / "var/lib/outbox").st_uid
    run("/usr/bin/python3", "-c", code, root / "var/lib/outbox/outbox.sqlite", insert, key, user=owner, group=owner)


def statuses(root):
    database = sqlite3.connect(f"file:{root}/var/lib/outbox/outbox.sqlite?mode=ro", uri=True)
    return dict(database.execute("SELECT idem_key, status FROM outbox_status"))


def older(package, folder):
    """The same package under an older version: the one before the first release."""
    run("dpkg-deb", "--raw-extract", package, folder / "tree")
    control = folder / "tree/DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {program.VERSION}", "Version: 0.0.1"))
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", folder / "tree", folder / "older.deb")
    return folder / "older.deb"


def debian(dist, handlers, place):
    step(f"debootstrap makes a bare {SUITE}")
    root = place / "debian"
    run("debootstrap", "--variant=minbase", "--include=systemd-sysv", SUITE, root)
    shutil.copy(older(only(dist, f"*{MACHINE}-gnu.deb"), place), root / "older.deb")
    shutil.copy(only(dist, f"*{MACHINE}-gnu.deb"), root / "newer.deb")
    with receiver() as (url, bodies):
        step("the package of an older version is installed")
        run("chroot", root, "dpkg", "--install", "/older.deb")
        token = (root / "etc/outbox/credentials/token").read_text()
        assert re.fullmatch("[0-9a-f]{64}", token), token
        enabled = root / "etc/systemd/system/multi-user.target.wants/outbox.service"
        assert enabled.is_symlink(), "the unit is not enabled"
        for end in ("wasm", "toml"):
            shutil.copy(handlers / f"webhook.{end}", root / "etc/outbox/plugins.d")

        step("the command of the unit serves, and an item that SQL enqueues is done by the handler")
        with unit(root, {"WEBHOOK_URL": url}):
            enqueue(root, "order-17")
            until(lambda: statuses(root) == {"order-17": "DONE"}, "DONE")
            assert json.loads(bodies[0]) == {"order": 17}, bodies
            assert answer("/items")[0] == 401 and answer("/items", token)[0] == 200

        step("an upgrade keeps the database, the settings and the token")
        settings = root / "etc/outbox/outbox.toml"
        settings.write_text(settings.read_text() + "# a line of the administrator\n")
        run("chroot", root, "dpkg", "--install", "/newer.deb")
        assert "a line of the administrator" in settings.read_text()
        assert (root / "etc/outbox/credentials/token").read_text() == token
        with unit(root, {"WEBHOOK_URL": url}):
            enqueue(root, "order-18")
            until(lambda: statuses(root) == {"order-17": "DONE", "order-18": "DONE"}, "DONE")
    assert f"outbox {program.VERSION}" in run("chroot", root, "outbox", "--version")
    if shutil.which("systemd-nspawn"):
        under_systemd(root)
    else:
        step("the unit is not tried: systemd-nspawn is not here")

    step("a removal keeps the database and the settings; a purge leaves nothing")
    run("chroot", root, "dpkg", "--remove", "outbox")
    assert len(statuses(root)) == 2 and settings.exists() and not (root / "usr/bin/outbox").exists()
    run("chroot", root, "dpkg", "--purge", "outbox")
    left = [root / "etc/outbox", root / "var/lib/outbox", *(root / "var/cache").glob("outbox*")]
    left = [path for path in left if path.exists()]
    assert not left and not enabled.is_symlink() and "outbox" not in (root / "etc/passwd").read_text(), left


def under_systemd(root):
    """Boots the system, which starts the unit with everything that it is not allowed to do."""
    step("systemd starts the unit and a role, reloads, restarts both during an upgrade also after a mistake, and stops them")
    override = root / "etc/systemd/system/outbox.service.d/override.conf"
    override.parent.mkdir()
    override.write_text(f"[Service]\nEnvironment=OUTBOX_LISTEN={LISTEN} WEBHOOK_URL=http://127.0.0.1:9/\n")
    token = (root / "etc/outbox/credentials/token").read_text()
    with booted(root) as inside:
        until(lambda: answer("/readyz")[0] == 200, "a start")
        assert answer("/items", token)[0] == 200
        process = inside("systemctl", "show", "--property=MainPID", "--value", "outbox")
        inside("systemctl", "reload", "outbox")
        stats = inside("runuser", "-u", "outbox", "--", "outbox", "stats")
        assert "webhook" in stats, stats
        assert inside("systemctl", "show", "--property=MainPID", "--value", "outbox") == process
        (root / "etc/outbox/roles/mail.env").write_text(f"OUTBOX_LISTEN={ROLE_LISTEN}\nWEBHOOK_URL=http://127.0.0.1:9/\n")
        (root / "etc/outbox/plugins.d/mail").mkdir()
        inside("systemctl", "enable", "--now", "outbox@mail")
        until(lambda: answer("/readyz", listen=ROLE_LISTEN)[0] == 200, "a start of the role")
        assert answer("/items", token, ROLE_LISTEN)[0] == 404, "a role answers probes and metrics only"
        override.write_text(override.read_text().replace(LISTEN, "nowhere"))
        inside("dpkg", "--install", "/newer.deb")
        assert inside("sh", "-c", "systemctl is-active outbox || true").strip() != "active", "it listens nowhere"
        override.write_text(override.read_text().replace("nowhere", LISTEN))
        inside("dpkg", "--install", "/newer.deb")
        assert inside("systemctl", "show", "--property=MainPID", "--value", "outbox") != process
        until(lambda: answer("/items", token)[0] == 200, "a start after the upgrade")
        until(lambda: answer("/readyz", listen=ROLE_LISTEN)[0] == 200, "a start of the role after the upgrade")
        for name in ("outbox", "outbox@mail"):
            inside("systemctl", "stop", name)
            assert inside("systemctl", "show", "--property=Result", "--value", name).strip() == "success"


@contextlib.contextmanager
def booted(root):
    """Boots the system in a container that shares the network; yields what runs a command in it."""
    words = ["systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--directory", root, "--boot"]
    with open(root / "boot.log", "w") as output:
        container = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    children = pathlib.Path(f"/proc/{container.pid}/task/{container.pid}/children")
    inside = lambda *command: run("nsenter", "--target", children.read_text().split()[0], "--all", *command)
    try:
        until(lambda: children.read_text().strip() and "Login" in (root / "boot.log").read_text(), "a boot")
        yield inside
    finally:
        container.terminate()
        container.wait(60)


def image(dist, handlers, place):
    for archive in dist.glob(f"*{MACHINE}-*-oci.tar"):
        step(f"{archive.name} serves from a read-only root file system as user {USER}")
        root = place / f"{archive.name}.d"
        variables = {**unpack(archive, root), "OUTBOX_ENABLED": "true", "OUTBOX_LISTEN": LISTEN}
        variables["OUTBOX_DB"] = "/var/lib/outbox/outbox.sqlite"
        volumes = [f"mount -t tmpfs -o uid={USER},mode=700 tmpfs {root}/var/{name}/outbox" for name in ("lib", "cache")]
        read_only = [f"mount --bind {root} {root}", f"mount -o remount,bind,ro {root}"]
        plugins = f"mount --bind {handlers} {root}/plugins"
        serve = f"exec chroot --userspec={USER}:{USER} {root} /usr/bin/outbox serve"
        with receiver() as (url, bodies):
            words = ["unshare", "--mount", "sh", "-e", "-c", "\n".join([*read_only, *volumes, plugins, serve])]
            with running(words, {**variables, "WEBHOOK_URL": url}, place / "image.log"):
                write(json.dumps({"type": "webhook", "idem_key": "order-17", "payload": {"order": 17}}))
                until(lambda: bodies, "a request at the receiver")


def write(item):
    headers = {"Content-Type": "application/json", "Idempotency-Key": "order-17", "X-Correlation-ID": "order-17"}
    request = urllib.request.Request(f"http://{LISTEN}/items", item.encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as found:
        assert found.status == 202, found.status


def unpack(archive, root):
    """What a container runtime does with an image: unpacks its layers; returns its variables."""
    with tarfile.open(archive) as files:
        read = lambda described: files.extractfile(f"blobs/{described['digest'].replace(':', '/')}").read()
        (entry,) = json.load(files.extractfile("index.json"))["manifests"]
        manifest = json.loads(read(entry))
        for layer in manifest["layers"]:
            tarfile.open(fileobj=io.BytesIO(read(layer))).extractall(root, numeric_owner=True)
        return dict(variable.split("=", 1) for variable in json.loads(read(manifest["config"]))["config"]["Env"])


def installers(dist, place):
    clean = {**os.environ, "HOME": str(place), "PIPX_HOME": str(place / "pipx"), "npm_config_cache": str(place / "npm")}
    for kind, words in {
        "wheel": ["pipx", "run", "--spec", only(dist, f"*manylinux*_{MACHINE}.whl"), "outbox", "--version"],
        "npm package": ["npx", "--yes", "--package", only(dist, f"*{MACHINE}-gnu-npm.tgz"), "outbox", "--version"],
    }.items():
        if shutil.which(words[0]) is None:
            step(f"the {kind} is not tried: {words[0]} is not here")
            continue
        step(f"{words[0]} starts the program of the {kind}")
        assert run(*words, env=clean, cwd=place).strip() == f"outbox {program.VERSION}"


def main():
    dist, handlers = (pathlib.Path(word).resolve() for word in sys.argv[1:])
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        place.chmod(0o755)
        installers(dist, place)
        image(dist, handlers, place)
        debian(dist, handlers, place)
    print("the packages work")


if __name__ == "__main__":
    main()
