"""A PostgreSQL server for the duration of a benchmark, with the default durability and a folder of its own."""

import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time

from peers import Missing

# Settings that an administrator chooses for a machine with 4 GB. All settings of durability keep their defaults.
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}


def binaries():
    """The folder with the binaries of the newest installed server, or of the server in ``PATH``."""
    installed = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if installed:
        return installed[-1].parent
    found = shutil.which("initdb")
    if found is None:
        raise Missing("PostgreSQL is not installed: install the package postgresql")
    return pathlib.Path(found).resolve().parent


def owner():
    """The user that runs the server: the user postgres when this runs as root, because the server refuses root."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def home(folder, who):
    """A new folder that the server's owner can reach: below the given one, or else in the system's temporary folder."""
    for parent in (folder, None):
        made = pathlib.Path(tempfile.mkdtemp(prefix="outbox-peers-", dir=parent))
        if who:
            os.chown(made, who["user"], who["group"])
        if subprocess.run(["test", "-w", made], cwd="/", **who).returncode == 0:
            return made
        made.rmdir()
    raise Missing("there is no folder that the server's owner may write to")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """A running server. Each round of a peer gets a new database on it."""

    def __init__(self, psql, port):
        self.psql, self.port, self.made = psql, port, 0

    def url(self, database):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def sql(self, statement):
        done = subprocess.run(
            [self.psql, "-XqAt", "-d", self.url("postgres"), "-c", statement], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise Missing(f"`{statement}`: {done.stderr.strip()}")
        return done.stdout.strip()

    @contextlib.contextmanager
    def database(self):
        """The URL of a new empty database, which is removed after use."""
        self.made += 1
        name = f"peer_{self.made}"
        self.sql(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def running(folder):
    bin, who = binaries(), owner()
    base = home(folder, who)
    try:
        made = subprocess.run(
            [bin / "initdb", "-D", base / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"],
            capture_output=True, text=True, cwd=base, **who,
        )
        if made.returncode != 0:
            raise Missing(f"initdb: {made.stderr[-2000:]}")
        port = free_port()
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""} | SETTINGS
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (base / "server.log").open("w") as log:
            server = subprocess.Popen([bin / "postgres", "-D", base / "data", *words], cwd=base, stdout=log, stderr=log, **who)
        try:
            cluster = Cluster(bin / "psql", port)
            answering(cluster, server, base)
            yield cluster
        finally:
            server.terminate()
            server.wait()
    finally:
        shutil.rmtree(base, ignore_errors=True)


def answering(cluster, server, base):
    for _ in range(600):
        try:
            return cluster.sql("SELECT 1")
        except Missing:
            if server.poll() is not None:
                break
            time.sleep(0.1)
    raise Missing(f"the server does not answer:\n{(base / 'server.log').read_text()[-2000:]}")
