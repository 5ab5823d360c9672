"""What must hold of docker-compose.yml beside the program. Each rule yields the faults that it finds, as sentences.

It reads the configuration as `docker-compose config` prints it, in the forms of both generations of that program.
"""

import re

import program

# How long docker waits for a container that stops, when the file does not say so, in seconds.
DOCKER_GRACE = 10


def faults(config):
    hosts = {name: service for name, service in config["services"].items() if service["image"].startswith("outbox:")}
    for name, service in hosts.items():
        yield from _host(name, service, config)


def _host(name, service, config):
    given = service.get("environment", {})
    for variable in given:
        # Roles have variables of manifests besides.
        if variable not in program.VARIABLES and not re.fullmatch(r"(VECTOR|BELIEF)_URL", variable):
            yield f"{name}: the program has no variable {variable}"
    for command in service["command"]:
        if command not in program.COMMANDS:
            yield f"{name}: the program has no command {command}"
    if service.get("pull_policy") != "never":
        yield f"{name}: the image may be pulled, and its name belongs to somebody else"
    if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
        yield f"{name}: the root file system must be read-only, and every capability dropped"
    if service["command"] == ["serve"] and "OUTBOX_SESSION_KEY_FILE" not in given:
        yield f"{name}: a log-in ends with the process, because there is no session key"
    yield from _grace(name, service, given)
    yield from _ports(name, service, given)
    yield from _files(name, service, given, config)


def _grace(name, service, given):
    grace = _seconds(service.get("stop_grace_period", f"{DOCKER_GRACE}s"))
    needed = int(given.get("OUTBOX_DRAIN_SEC", program.DEFAULTS["OUTBOX_DRAIN_SEC"])) + program.SECONDS_AFTER_DRAIN
    if grace < needed:
        yield f"{name}: the grace period of {grace} seconds is shorter than the {needed} that a shutdown may take"


def _seconds(text):
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


def _ports(name, service, given):
    listened = int(given["OUTBOX_LISTEN"].rsplit(":", 1)[1])
    for port in service.get("ports", []):
        target = port["target"] if isinstance(port, dict) else int(port.split("/")[0].rsplit(":", 1)[1])
        if target != listened:
            yield f"{name}: the published port leads to {target}, and OUTBOX_LISTEN has {listened}"


def _files(name, service, given, config):
    secrets = {f"/run/secrets/{secret['source']}" for secret in service.get("secrets", [])}
    mounts = [_target(volume) for volume in service.get("volumes", [])]
    for variable, value in given.items():
        if variable.endswith("_FILE") and value not in secrets:
            yield f"{name}: {variable} is {value}, which is no secret of this service"
    has_images = "oci://" in given["OUTBOX_PLUGINS"]
    if has_images and given.get("OUTBOX_MANIFESTS") not in mounts:
        yield f"{name}: the manifests of its images are in no volume"
    if "OUTBOX_ROLE" in given and not has_images and f"{given['OUTBOX_PLUGINS']}/{given['OUTBOX_ROLE']}" not in mounts:
        yield f"{name}: a host of this role looks for its handlers at {given['OUTBOX_PLUGINS']}/{given['OUTBOX_ROLE']}"
    is_cached = any(given["OUTBOX_CACHE_DIR"].startswith(mount + "/") for mount in mounts)
    if service["command"] != ["migrate"] and not is_cached:
        yield f"{name}: OUTBOX_CACHE_DIR is in no volume"
    database = re.search(r"@([a-z]+)", given["OUTBOX_DB"])[1]
    if database not in config["services"]:
        yield f"{name}: OUTBOX_DB names {database}, which is no service"


def _target(volume):
    return volume["target"] if isinstance(volume, dict) else volume.split(":")[1]
