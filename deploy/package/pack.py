"""Packs a program that has been built (`make dist`).

    pack.py make --binary FILE --target TARGET [--extras FOLDER] [--libraries FOLDER …] --out dist
    pack.py finish [--key FILE] --out dist
    pack.py handlers --folder FOLDER --name NAME:TAG --out FILE

`make` writes the packages of one target. `finish` adds the chart, writes SHA256SUMS of everything, and signs each file
with a secret key of minisign. `handlers` makes an image of the components and manifests in a folder. Two runs of the
same commit give the same bytes, except for the signatures.
"""

import argparse
import hashlib
import pathlib
import subprocess
import sys

import chart
import deb
import handlers
import image
import npm
import release
import sbom
import tarball
import wheel

SUMS = "SHA256SUMS"
SIGNATURE = ".minisig"
# Where a Debian system of this machine has its libraries.
LIBRARIES = ["/lib/{machine}-linux-gnu", "/lib64"]


def make(arguments):
    packed = release.load(arguments.binary, arguments.target, arguments.extras)
    folders = arguments.libraries or [folder.format(machine=packed.program.machine) for folder in LIBRARIES]
    files = {**tarball.make(packed), **wheel.make(packed), **npm.make(packed), **sbom.make(packed)}
    files |= image.make(packed, folders)
    if packed.is_gnu:
        files |= deb.make(packed)
    write(arguments.out, files)


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        print(f"{folder / name}  {len(content) / 1e6:.1f} MB")


def pack_handlers(arguments):
    write(arguments.out.parent, {arguments.out.name: handlers.make(arguments.folder, arguments.name)})


def finish(arguments):
    write(arguments.out, chart.make())
    files = sorted(path for path in arguments.out.iterdir() if path.name != SUMS and path.suffix != SIGNATURE)
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (arguments.out / SUMS).write_text(sums)
    for path in [*files, arguments.out / SUMS] if arguments.key else []:
        comment = f"outbox {release.version()} {path.name}"
        subprocess.run(["minisign", "-S", "-s", arguments.key, "-m", path, "-t", comment], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making, finishing, packing = (commands.add_parser(name) for name in ("make", "finish", "handlers"))
    making.add_argument("--binary", required=True, help="the program")
    making.add_argument("--target", required=True, choices=release.TARGETS, help="what it was built for")
    making.add_argument("--extras", help="a folder with share/man and completions, as they lie below /usr")
    making.add_argument("--libraries", nargs="+", help="where the libraries of the image are; by default this system's")
    finishing.add_argument("--key", help="a secret key of minisign; without it nothing is signed")
    packing.add_argument("--folder", required=True, type=pathlib.Path, help="the folder of the handlers")
    packing.add_argument("--name", required=True, help="the name of the image and its tag")
    for command in (making, finishing):
        command.add_argument("--out", required=True, type=pathlib.Path, help="the folder of the packages")
    packing.add_argument("--out", required=True, type=pathlib.Path, help="the file of the image")
    arguments = parser.parse_args()
    try:
        {"make": make, "finish": finish, "handlers": pack_handlers}[arguments.command](arguments)
    except release.Unfit as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
