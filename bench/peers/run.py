"""The same work by other queues and by ours, in turn, at equal durability: `make bench-peers`.

Every peer is installed at the version that its folder pins, into the folder named first; nothing of it
is kept elsewhere. A round is one run of each, on an empty database; the figures are medians over the
rounds. What is missing on this machine is said, and the others are compared all the same.

    python3 run.py FOLDER OUTBOX [--help]
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FULL = 2
FIGURES = ("enqueue", "bulk", "drain")
TITLES = {"enqueue": "one by one", "bulk": "in bulk", "drain": "drain"}
# What ours calls the same work. The first is the one that peers are compared with.
OURS = {"enqueue": "enqueue.callers_1", "bulk": "enqueue.bulk", "drain": "drain.sandbox"}
BESIDE = ("limit.drain", "drain.native", "drain.sandbox_ordered", "fsync")


class Missing(Exception):
    """Something that a peer needs is not here."""


def need(tool, for_what):
    path = shutil.which(tool)
    if path is None:
        raise Missing(f"`{tool}` is not installed; {for_what} needs it")
    return path


def run(*command, **options):
    """Runs a command whose output is only wanted when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Missing(f"`{' '.join(map(str, command))}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def copied(folder, name):
    """A fresh copy of a driver's sources, keeping what was installed before."""
    target = folder / name
    shutil.copytree(HERE / name, target, dirs_exist_ok=True)
    return target


def plainjob(folder):
    node, npm = need("node", "plainjob"), need("npm", "plainjob")
    home = copied(folder, "plainjob")
    if not (home / "node_modules").is_dir():
        try:
            run(npm, "ci", "--no-audit", "--no-fund", cwd=home)
        except Missing:
            shutil.rmtree(home / "node_modules", ignore_errors=True)
            raise
    return [node, home / "drive.mjs"]


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


PEERS = {"plainjob": plainjob, "huey": huey, "apalis-sqlite": apalis}


def round_of(command, folder, singles, items):
    """One run of a peer on an empty database; refuses figures of work that was not done, or not durable."""
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        words = [*map(str, command), empty, str(singles), str(items)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise Missing(f"`{' '.join(words)}` failed:\n{done.stderr[-2000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    if report["synchronous"] != FULL or report["journal_mode"] != "wal":
        raise Missing(f"its connection answers {report}: that is not WAL with synchronous=FULL")
    if report["done"] != items:
        raise Missing(f"it handled {report['done']} of {items}")
    return report


def round_of_ours(outbox, folder, items):
    """Every store of a bench is empty, and lies where those of the peers do."""
    words = [outbox, "--db", folder / "beside.db", "bench", "--quick", "--json", "--rounds", "1", "--items", str(items)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise Missing(f"`{' '.join(map(str, words))}` failed:\n{done.stderr[-2000:]}")
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    report = {key: figures[name]["per_s"] for key, name in OURS.items()}
    beside = {name: figures[name].get("per_s") or figures[name].get("ms") for name in BESIDE if name in figures}
    return report | beside


def installed(folder, wanted):
    commands = {}
    for name in wanted:
        try:
            print(f"installing {name} …", file=sys.stderr)
            commands[name] = PEERS[name](folder)
        except Missing as why:
            print(f"left out: {name}: {why}", file=sys.stderr)
    return commands


def measure(folder, outbox, commands, args):
    reports = {name: [] for name in ["outbox", *commands]}
    for number in range(1, args.rounds + 1):
        print(f"round {number} of {args.rounds} …", file=sys.stderr)
        for name in reports:
            try:
                if name == "outbox":
                    reports[name].append(round_of_ours(outbox, folder, args.our_items))
                else:
                    reports[name].append(round_of(commands[name], folder, args.singles, args.items))
            except Missing as why:
                print(f"no figure of {name} in round {number}: {why}", file=sys.stderr)
    return {name: rounds for name, rounds in reports.items() if rounds}


def summary(rounds, key):
    """The median, and how far the rounds lie apart relative to it."""
    values = [report[key] for report in rounds if report.get(key) is not None]
    if not values:
        return None
    median = statistics.median(values)
    return median, (max(values) - min(values)) / median


def cell(found):
    return "–" if found is None else f"{found[0]:,.0f} ±{found[1] / 2:.0%}"


def table(reports):
    print(f"{'items a second':<32}" + "".join(f"{TITLES[key]:>18}" for key in FIGURES) + f"{'ours ÷ its drain':>18}")
    ours = summary(reports.get("outbox", []), "drain")
    for name, rounds in reports.items():
        found = {key: summary(rounds, key) for key in FIGURES}
        ratio = f"{ours[0] / found['drain'][0]:.1f}" if ours and name != "outbox" else ""
        print(f"{name:<32}" + "".join(f"{cell(found[key]):>18}" for key in FIGURES) + f"{ratio:>18}")
    for name in BESIDE:
        beside = summary(reports.get("outbox", []), name)
        if beside:
            print(f"  beside it, {name}: {beside[0]:,.2f} ±{beside[1] / 2:.0%}")


def main():
    parser = argparse.ArgumentParser(description="Compares this outbox with other queues on SQLite.")
    parser.add_argument("folder", type=pathlib.Path, help="where the peers are installed and their databases lie")
    parser.add_argument("outbox", type=pathlib.Path, help="the outbox to compare with, built for release")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=2000, help="items that each peer handles in a round")
    parser.add_argument("--singles", type=int, default=300, help="so many of them are enqueued one by one")
    parser.add_argument("--our-items", type=int, default=20000, help="items that we handle: more, to take as long")
    parser.add_argument("--only", action="append", choices=PEERS, help="compare with these alone")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    commands = installed(args.folder.resolve(), args.only or PEERS)
    reports = measure(args.folder.resolve(), os.fspath(args.outbox.resolve()), commands, args)
    if set(reports) <= {"outbox"}:
        sys.exit("no peer could be measured: see above for what is missing")
    table(reports)
    print(
        f"\n{args.rounds} rounds in turn; {args.items} items a round by each peer and {args.our_items} by us, about "
        "200 bytes of JSON each; no-op handlers, ours in a fresh sandbox each; WAL with synchronous=FULL, asked of "
        "each peer's connections; medians ± half the spread."
    )


if __name__ == "__main__":
    main()
