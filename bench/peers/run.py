"""Compares other queues with this outbox: the same work, in turn, with equal durability (`make bench-peers`).

The program installs every peer at the version that its folder pins, into FOLDER and nowhere else. A round is one run of
each peer on an empty database; the figures are medians over the rounds. The program reports peers that cannot run on
this machine, and compares the others.

    python3 run.py FOLDER OUTBOX [--help]
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile

import cluster
from peers import ON_POSTGRES, ON_SQLITE, Missing

FIGURES = ("enqueue", "bulk", "drain")
TITLES = {"enqueue": "one by one", "bulk": "in bulk", "drain": "drain"}
# The names of our figures for the same work. Peers are compared with the first figure of each.
OURS = {"enqueue": "enqueue.callers_1", "bulk": "enqueue.bulk", "drain": "drain.sandbox"}
BESIDE = ("limit.drain", "drain.native", "drain.sandbox_ordered", "fsync")


class Sqlite:
    """SQLite: every database is a file in the folder of the peers."""

    name, peers = "SQLite", ON_SQLITE
    durability = "WAL with synchronous=FULL"
    slower = 1
    asked = {"journal_mode": "wal", "synchronous": 2}

    def __init__(self, folder):
        self.folder = folder
        self.ours = folder / "beside.db"

    def empty(self):
        return tempfile.TemporaryDirectory(dir=self.folder)


class Postgres:
    """PostgreSQL: all databases are on a server that runs only for this benchmark."""

    name, peers = "PostgreSQL", ON_POSTGRES
    durability = "fsync and synchronous_commit on"
    slower = 5
    asked = {"fsync": "on", "synchronous_commit": "on"}

    def __init__(self, server):
        self.server = server
        self.ours = server.url("postgres")

    def empty(self):
        return self.server.database()


@contextlib.contextmanager
def engine(name, folder):
    if name == "sqlite":
        yield Sqlite(folder)
    else:
        with cluster.running(folder) as server:
            yield Postgres(server)


def round_of(engine, command, singles, items):
    """Runs a peer once on an empty database. Refuses its figures when work was not done or was not durable."""
    with engine.empty() as place:
        words = [*map(str, command), place, str(singles), str(items)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise Missing(f"`{' '.join(words)}` failed:\n{done.stderr[-2000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    if any(report[key] != value for key, value in engine.asked.items()):
        raise Missing(f"its connection answers {report}: that is not {engine.durability}")
    if report["done"] != items:
        raise Missing(f"it handled {report['done']} of {items}")
    return report


def round_of_ours(engine, outbox, items):
    """Runs our benchmark once, on empty stores in the same place as those of the peers."""
    words = [outbox, "--db", engine.ours, "bench", "--quick", "--json", "--rounds", "1", "--items", str(items)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise Missing(f"`{' '.join(map(str, words))}` failed:\n{done.stderr[-2000:]}")
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    report = {key: figures[name]["per_s"] for key, name in OURS.items()}
    beside = {name: figures[name].get("per_s") or figures[name].get("ms") for name in BESIDE if name in figures}
    return report | beside


def installed(engine, folder, wanted):
    commands = {}
    for name in wanted:
        try:
            print(f"installing {name} …", file=sys.stderr)
            commands[name] = engine.peers[name](folder)
        except Missing as why:
            print(f"left out: {name}: {why}", file=sys.stderr)
    return commands


def measure(engine, outbox, commands, args):
    reports = {name: [] for name in ["outbox", *commands]}
    for number in range(1, args.rounds + 1):
        print(f"{engine.name}, round {number} of {args.rounds} …", file=sys.stderr)
        for name in reports:
            try:
                if name == "outbox":
                    reports[name].append(round_of_ours(engine, outbox, args.our_items // engine.slower))
                else:
                    reports[name].append(round_of(engine, commands[name], args.singles, args.items))
            except Missing as why:
                print(f"no figure of {name} in round {number}: {why}", file=sys.stderr)
    return {name: rounds for name, rounds in reports.items() if rounds}


def summary(rounds, key):
    """The median of the rounds, and the difference between the highest and the lowest round divided by the median."""
    values = [report[key] for report in rounds if report.get(key) is not None]
    if not values:
        return None
    median = statistics.median(values)
    return median, (max(values) - min(values)) / median


def ratio(ours, theirs):
    """The median of the ratios of each round: noise on the machine affects both sides of a ratio."""
    return statistics.median(our["drain"] / their["drain"] for our, their in zip(ours, theirs))


def cell(found):
    return "–" if found is None else f"{found[0]:,.0f} ±{found[1] / 2:.0%}"


def table(engine, reports, args):
    print(f"{'items a second':<32}" + "".join(f"{TITLES[key]:>18}" for key in FIGURES) + f"{'ours ÷ its drain':>18}")
    ours = reports.get("outbox", [])
    for name, rounds in reports.items():
        found = {key: summary(rounds, key) for key in FIGURES}
        beside = f"{ratio(ours, rounds):.1f}" if ours and name != "outbox" else ""
        print(f"{name:<32}" + "".join(f"{cell(found[key]):>18}" for key in FIGURES) + f"{beside:>18}")
    for name in BESIDE:
        beside = summary(ours, name)
        if beside:
            print(f"  beside it, {name}: {beside[0]:,.2f} ±{beside[1] / 2:.0%}")
    print(
        f"\n{engine.name}: {args.rounds} rounds in turn; {args.items} items a round by each peer and {args.our_items // engine.slower} "
        f"by us, about 200 bytes of JSON each; no-op handlers, ours in a fresh sandbox each; {engine.durability}, "
        "asked of each peer's connections; medians ± half the spread, ratios round by round.\n"
    )


def compare(name, folder, args):
    """Compares the peers on one engine. Returns whether a peer could be measured."""
    with engine(name, folder) as on:
        wanted = [peer for peer in on.peers if not args.only or peer in args.only]
        commands = installed(on, folder, wanted)
        reports = measure(on, os.fspath(args.outbox.resolve()), commands, args) if commands else {}
        if set(reports) <= {"outbox"}:
            return False
        table(on, reports, args)
        return True


def main():
    parser = argparse.ArgumentParser(description="Compares this outbox with other queues.")
    parser.add_argument("folder", type=pathlib.Path, help="where the peers are installed and their databases lie")
    parser.add_argument("outbox", type=pathlib.Path, help="the outbox to compare with, built for release")
    parser.add_argument("--on", choices=("sqlite", "postgres"), help="compare on this engine alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=2000, help="items that each peer handles in a round")
    parser.add_argument("--singles", type=int, default=300, help="so many of them are enqueued one by one")
    parser.add_argument("--our-items", type=int, default=20000, help="items that we handle: more, to take as long; on PostgreSQL a fifth")
    parser.add_argument("--only", action="append", choices=ON_SQLITE | ON_POSTGRES, help="compare with these alone")
    args = parser.parse_args()
    # On SIGTERM the program exits in the normal way, which also ends the PostgreSQL server that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    args.folder.mkdir(parents=True, exist_ok=True)
    compared = []
    for name in [args.on] if args.on else ["sqlite", "postgres"]:
        try:
            compared.append(compare(name, args.folder.resolve(), args))
        except Missing as why:
            print(f"nothing on {name}: {why}", file=sys.stderr)
    if not any(compared):
        sys.exit("no peer could be measured: see above for what is missing")


if __name__ == "__main__":
    main()
