"""What deploy/package makes of a program: the same bytes each time, in the forms that installers read, and nothing for a
program that does not fit. `make dist-check` installs real packages.

A program of this machine stands for the outbox, since nothing in a package but the program itself depends on it.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import unittest
import zipfile

import program

PACKAGE = program.ROOT / "deploy/package"
sys.path.insert(0, str(PACKAGE))

import deb
import elf
import image
import pack
import release
import sbom
import tarball
import wheel

BINARY = pathlib.Path("/bin/true").resolve()
MACHINE = elf.read(BINARY.read_bytes()).machine
TARGET = f"{MACHINE}-gnu"
TIME = 1700000000
UNITS = program.ROOT / "deploy/systemd"


def packed(out, umask):
    """Packs the program, with another umask, clock and folder of the user each time."""
    words = [sys.executable, PACKAGE / "pack.py", "make", "--binary", BINARY, "--target", TARGET, "--out", out]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(TIME), "TMPDIR": str(out.parent)}
    subprocess.run(words, check=True, env=environment, umask=umask, cwd=out.parent, stdout=subprocess.DEVNULL)
    return {path.name: path.read_bytes() for path in out.iterdir()}


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.place.cleanup)
        cls.out = pathlib.Path(cls.place.name, "first/dist")
        cls.out.parent.mkdir()
        cls.files = packed(cls.out, 0o022)

    def named(self, end):
        (name,) = [name for name in self.files if name.endswith(end)]
        return self.files[name]

    def test_two_runs_give_the_same_bytes(self):
        again = pathlib.Path(self.place.name, "second/dist")
        again.parent.mkdir()
        self.assertEqual(
            {name: hashlib.sha256(content).hexdigest() for name, content in packed(again, 0o077).items()},
            {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()},
        )

    def test_file_names_have_the_version_and_the_target(self):
        names = set(self.files)
        own = {name for name in names if name.startswith(f"outbox-{program.VERSION}-{TARGET}")}
        self.assertEqual(len(own), 5, names)
        self.assertRegex("".join(names - own), rf"^outbox_host-{program.VERSION}-py3-none-manylinux_2_\d+_{MACHINE}\.whl$")

    def test_the_tarball_has_one_folder_with_everything(self):
        with tarfile.open(fileobj=io.BytesIO(self.named(".tar.gz"))) as archive:
            members = {member.name.split("/", 1)[1]: member for member in archive}
        wanted = {"bin/outbox", "LICENSE", "etc/outbox/outbox.toml", "lib/systemd/system/outbox.service"}
        self.assertLessEqual(wanted | {"share/doc/outbox/docs/operations.md"}, set(members))
        self.assertEqual(members["bin/outbox"].mode, 0o755)
        self.assertEqual({(member.mtime, member.uid) for member in members.values()}, {(TIME, 0)})

    def test_the_documents_link_to_files_that_are_packed(self):
        with tarfile.open(fileobj=io.BytesIO(self.named(".tar.gz"))) as archive:
            texts = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
        folders = {str(parent) for name in texts for parent in pathlib.PurePosixPath(name).parents}
        dead, links = [], 0
        for name in (name for name in texts if name.endswith(".md")):
            for target in re.findall(r"\]\(([^()\s]+)\)", texts[name].decode()):
                if "://" in target or target.startswith("#"):
                    continue
                links += 1
                path = os.path.normpath(os.path.join(os.path.dirname(name), target.split("#")[0]))
                dead += [(name, target)] if path not in texts and path not in folders else []
        self.assertEqual(dead, [])
        self.assertGreater(links, 100)
        (readme,) = [text.decode() for name, text in texts.items() if name.endswith("outbox/README.md")]
        self.assertIn("as `plugins/webhook/webhook.toml` in the repository does", readme)

    def test_manual_pages_are_compressed_and_lie_beside_the_completions(self):
        extras = pathlib.Path(self.place.name, "extras")
        page, completions = "share/man/man1/outbox.1", "share/bash-completion/completions/outbox"
        for path in (page, completions):
            (extras / path).parent.mkdir(parents=True)
            (extras / path).write_text(path)
        built = release.load(BINARY, TARGET, extras)
        with tarfile.open(fileobj=io.BytesIO(*tarball.make(built).values())) as archive:
            content = lambda path: archive.extractfile(f"{built.name}/{path}").read()
            self.assertEqual(gzip.decompress(content(f"{page}.gz")).decode(), page)
            self.assertEqual(content(completions).decode(), completions)
        package = extras / "outbox.deb"
        package.write_bytes(*deb.make(built).values())
        listed = subprocess.run(["dpkg-deb", "-c", package], check=True, capture_output=True, text=True)
        for path in (f"{page}.gz", completions):
            self.assertIn(f"./usr/{path}\n", listed.stdout)

    def test_debian_reads_the_package(self):
        file = next(self.out.glob("*.deb"))
        ask = lambda *words: subprocess.run(["dpkg-deb", *words], check=True, capture_output=True, text=True).stdout
        fields = ask("--field", file)
        self.assertIn(f"Version: {program.VERSION}\n", fields)
        self.assertRegex(fields, r"Depends: libc6 \(>= 2\.\d+\), libgcc-s1, passwd\n")
        listed = ask("--contents", file)
        self.assertRegex(listed, r"-rwxr-xr-x root/root .* \./usr/bin/outbox\n")
        self.assertNotIn("/etc/outbox/credentials", listed)
        with tempfile.TemporaryDirectory() as place:
            ask("--control", file, place)
            self.assertEqual(pathlib.Path(place, "conffiles").read_text(), "/etc/outbox/outbox.toml\n")
            for script in ("postinst", "prerm", "postrm"):
                subprocess.run(["sh", "-n", pathlib.Path(place, script)], check=True)

    def test_the_image_is_read_by_tools_for_oci_and_by_docker(self):
        config, members, docker = self.unpacked(self.named("-oci.tar"))
        self.assertEqual(config["User"], "65532:65532")
        self.assertEqual([config["Entrypoint"], config["Cmd"]], [["/usr/bin/outbox"], ["serve"]])
        self.assertLessEqual({"usr/bin/outbox", "plugins", "etc/passwd", "usr/lib/libc.so.6"}, set(members))
        cache = members["var/cache/outbox"]
        self.assertEqual((cache.mode, cache.uid), (0o700, 65532))
        self.assertEqual({member.mtime for member in members.values()}, {TIME})
        self.assertEqual(docker["RepoTags"], [f"outbox:{program.VERSION}"])
        variables = {entry.split("=")[0] for entry in config["Env"]} - {"PATH"}
        self.assertLessEqual(variables, program.VARIABLES)

    def test_an_image_of_handlers_has_them_at_its_root(self):
        folder, out = pathlib.Path(self.place.name, "handlers"), pathlib.Path(self.place.name, "handlers.tar")
        folder.mkdir()
        for name in ("vector-upsert.wasm", "vector-upsert.toml", "vector-upsert.wasm.minisig", ".new.wasm", "notes.txt"):
            (folder / name).write_text(name)
        words = ["handlers", "--folder", folder, "--name", "vector-handlers:1.0.0", "--out", out]
        subprocess.run([sys.executable, PACKAGE / "pack.py", *words], check=True, stdout=subprocess.DEVNULL)
        _, members, docker = self.unpacked(out.read_bytes())
        self.assertEqual(sorted(members), ["vector-upsert.toml", "vector-upsert.wasm", "vector-upsert.wasm.minisig"])
        self.assertEqual(docker["RepoTags"], ["vector-handlers:1.0.0"])

    def unpacked(self, content):
        """The configuration of an image, its files, and what docker reads; the names of all blobs are their digests."""
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}
        for path, found in files.items():
            if path.startswith("blobs/"):
                self.assertEqual(path, f"blobs/sha256/{hashlib.sha256(found).hexdigest()}")
        path = lambda described: f"blobs/{described['digest'].replace(':', '/')}"
        (entry,) = json.loads(files["index.json"])["manifests"]
        manifest = json.loads(files[path(entry)])
        config = json.loads(files[path(manifest["config"])])
        layers = [gzip.decompress(files[path(layer)]) for layer in manifest["layers"]]
        self.assertEqual(config["rootfs"]["diff_ids"], [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers])
        (docker,) = json.loads(files["manifest.json"])
        self.assertEqual(docker["Layers"], [path(layer) for layer in manifest["layers"]])
        members = {member.name: member for layer in layers for member in tarfile.open(fileobj=io.BytesIO(layer))}
        return config["config"], members, docker

    def test_the_wheel_has_a_true_record(self):
        with zipfile.ZipFile(io.BytesIO(self.named(".whl"))) as archive:
            info = f"{wheel.NAME}-{program.VERSION}.dist-info"
            record = archive.read(f"{info}/RECORD").decode().splitlines()
            listed = dict(line.split(",")[:2] for line in record)
            self.assertEqual(set(listed), set(archive.namelist()))
            for path in set(listed) - {f"{info}/RECORD"}:
                self.assertEqual(listed[path], wheel._digest(archive.read(path)))
            script = archive.getinfo(f"{wheel.NAME}-{program.VERSION}.data/scripts/outbox")
            self.assertEqual(script.external_attr >> 16 & 0o777, 0o755)

    def test_npm_links_the_program_on_its_own_platform_only(self):
        with tarfile.open(fileobj=io.BytesIO(self.named("-npm.tgz"))) as archive:
            about = json.load(archive.extractfile("package/package.json"))
            self.assertEqual(archive.extractfile(f"package/{about['bin']['outbox']}").read(), BINARY.read_bytes())
        self.assertEqual((about["os"], about["libc"], about["private"]), (["linux"], ["glibc"], True))

    def test_the_bill_names_what_is_built_in_and_nothing_of_tests(self):
        bill = json.loads(self.named("-sbom.cdx.json"))
        names = {component["name"] for component in bill["components"]}
        self.assertLessEqual({"wasmtime", "rusqlite", "tokio-postgres", "outbox-store", "cc"}, names)
        self.assertEqual(names & {"proptest", "sqlx-core", "outbox"}, set())
        known = {component["bom-ref"] for component in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
        edges = {entry["ref"]: set(entry["dependsOn"]) for entry in bill["dependencies"]}
        self.assertEqual(set(edges), known)
        self.assertLessEqual(set().union(*edges.values()), known)

    def test_the_bill_does_not_tell_where_it_was_made(self):
        metadata = {
            "packages": [_crate("outbox", None), _crate("dep", "registry")],
            "resolve": {"nodes": [_node("outbox", "dep"), _node("dep")]},
        }
        moved = json.loads(json.dumps(metadata).replace("/first/", "/second/"))
        built = release.load(BINARY, TARGET, None)
        self.assertEqual(sbom.bill(built, metadata), sbom.bill(built, moved))

    def test_sums_and_signatures_cover_every_file(self):
        secret, public = pathlib.Path(self.place.name, "key"), pathlib.Path(self.place.name, "key.pub")
        subprocess.run(["minisign", "-G", "-W", "-f", "-p", public, "-s", secret], check=True, capture_output=True)
        finish = [sys.executable, PACKAGE / "pack.py", "finish", "--out", self.out, "--key", secret]
        for _ in range(2):
            subprocess.run(finish, check=True, capture_output=True)
        self.addCleanup(lambda: [path.unlink() for path in self.out.iterdir() if path.name not in self.files])
        subprocess.run(["sha256sum", "--check", "--strict", pack.SUMS], check=True, capture_output=True, cwd=self.out)
        chart = f"outbox-{program.VERSION}-chart.tgz"
        listed = {line.split("  ")[1] for line in (self.out / pack.SUMS).read_text().splitlines()}
        self.assertEqual(listed, {*self.files, chart})
        verify = lambda path: subprocess.run(["minisign", "-V", "-p", public, "-m", path], capture_output=True).returncode
        for path in map(self.out.joinpath, [*listed, pack.SUMS]):
            self.assertEqual(verify(path), 0, path)
        forged = self.out / pack.SUMS
        forged.write_text(forged.read_text().replace("a", "b", 1))
        self.assertNotEqual(verify(forged), 0)


def _crate(name, source):
    return {"id": f"path+file:///first/{name}", "name": name, "version": "1.0.0", "source": source, "license": "MIT/X"}


def _node(name, *used):
    deps = [{"pkg": f"path+file:///first/{to}", "dep_kinds": [{"kind": None}]} for to in used]
    return {"id": f"path+file:///first/{name}", "deps": deps}


class Unfit(unittest.TestCase):
    def refused(self, said, *words):
        done = subprocess.run([sys.executable, PACKAGE / "pack.py", *map(str, words)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, rf"^error: .*{said}")

    def test_a_program_for_another_target_is_refused(self):
        with tempfile.TemporaryDirectory() as out:
            other = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]
            given = lambda binary, target: ["make", "--binary", binary, "--target", target, "--out", out]
            self.refused(f"is for {MACHINE}, and the target is {other}-gnu", *given(BINARY, f"{other}-gnu"))
            self.refused("needs glibc, and the target is", *given(BINARY, f"{MACHINE}-musl"))
            self.refused("is no 64-bit ELF program", *given(__file__, TARGET))
            self.refused("the image needs libc.so.6, which is in none of", *given(BINARY, TARGET), "--libraries", out)
            packing = ["handlers", "--folder", out, "--out", pathlib.Path(out, "x"), "--name"]
            self.refused("has no component", *packing, "vector-handlers:1.0.0")
            self.refused("is no name of an image with a tag", *packing, "vector-handlers")
            self.assertEqual(os.listdir(out), [])

    def test_a_static_program_gets_no_libraries(self):
        static = elf.Elf(MACHINE, None, [], None)
        self.assertEqual(image.libraries(static, []), [])


def assignments(unit):
    """The values of each key of a unit, in their order."""
    lines = [line.split("=", 1) for line in (UNITS / unit).read_text().splitlines() if "=" in line and line[0] != "#"]
    return {key: [value for other, value in lines if other == key] for key, _ in lines}


class Units(unittest.TestCase):
    def test_they_agree_with_the_program(self):
        for unit, command in (("outbox.service", "serve"), ("outbox@.service", "worker")):
            values = assignments(unit)
            variables = {entry.split("=")[0] for entry in values["Environment"]}
            self.assertLessEqual(variables, program.VARIABLES)
            self.assertEqual(values["ExecStart"], [f"/usr/bin/outbox {command}"])
            self.assertIn(command, program.COMMANDS)
            drain = int(program.DEFAULTS["OUTBOX_DRAIN_SEC"])
            self.assertGreaterEqual(int(values["TimeoutStopSec"][0]), drain + program.SECONDS_AFTER_DRAIN)

    def test_a_role_may_do_no_more_than_the_host(self):
        host, role = assignments("outbox.service"), assignments("outbox@.service")
        own = {"Description", "ExecStart", "Environment", "EnvironmentFile", "CacheDirectory"}
        differ = {key for key in host.keys() | role.keys() if host.get(key) != role.get(key)}
        self.assertEqual(differ, own)
        self.assertIn(f"OUTBOX_CACHE_DIR=/var/cache/{role['CacheDirectory'][0]}", role["Environment"])

    def test_the_settings_are_known_and_lead_to_folders_of_the_unit(self):
        settings = tomllib.loads((program.ROOT / "deploy/debian/outbox.toml").read_text())
        self.assertLessEqual({f"OUTBOX_{key.upper()}" for key in settings}, set(program.DEFAULTS))
        values = assignments("outbox.service")
        self.assertEqual(settings["db"], f"/var/lib/{values['StateDirectory'][0]}/outbox.sqlite")
        self.assertEqual(settings["cache_dir"], f"/var/cache/{values['CacheDirectory'][0]}")

    def test_systemd_accepts_it_and_finds_little_exposed(self):
        if subprocess.run(["sh", "-c", "command -v systemd-analyze"], capture_output=True).returncode:
            self.skipTest("systemd-analyze is not here")
        words = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", UNITS / "outbox.service"]
        done = subprocess.run(words, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotRegex(done.stderr, r"Unknown|Failed|Invalid")


if __name__ == "__main__":
    unittest.main()
