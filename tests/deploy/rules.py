"""What must hold of rendered objects beside the program: ports, probes, variables, grace periods, selectors, files.

Each rule yields the faults that it finds, as sentences. It does not know who rendered the objects.
"""

import collections

import program

# The longest time in which a container is stopped, when it does not say so itself, in seconds.
KUBERNETES_GRACE = 30

# A host that migrates a large database at its start answers no probe for as long, in seconds.
LONG_MIGRATION = 3600

# The fields of a ServiceMonitor that this project may use, from the API of the Prometheus Operator: the validator has
# no schema for it.
SERVICE_MONITOR = {
    "selector": {"matchLabels": None, "matchExpressions": None},
    "namespaceSelector": {"any": None, "matchNames": None},
    "targetLabels": None,
    "podTargetLabels": None,
    "jobLabel": None,
    "sampleLimit": None,
    "endpoints": {
        "port": None,
        "path": None,
        "scheme": None,
        "interval": None,
        "scrapeTimeout": None,
        "honorLabels": None,
        "authorization": {"type": None, "credentials": {"name": None, "key": None, "optional": None}},
        "relabelings": {"action": None, "sourceLabels": None, "targetLabel": None, "regex": None, "replacement": None},
    },
}


def faults(objects, foreign=frozenset()):
    """All faults of these objects. `foreign` are variables of manifests, which the program does not know."""
    by_kind = collections.defaultdict(list)
    for found in objects:
        by_kind[found["kind"]].append(found)
    pods = [found for kind in ("Deployment", "Job") for found in by_kind[kind]]
    for pod in pods:
        yield from _pod(pod, foreign)
    for deployment in by_kind["Deployment"]:
        yield from _host(deployment)
    yield from _migration(by_kind)
    for kind, selector in (("Service", _plain), ("PodDisruptionBudget", _labelled), ("NetworkPolicy", _pods)):
        for found in by_kind[kind]:
            yield from _selects_one(found, selector(found), pods)
    for policy in by_kind["NetworkPolicy"]:
        yield from _policy(policy)
    for service in by_kind["Service"]:
        yield from _service(service)
    for monitor in by_kind["ServiceMonitor"]:
        yield from _monitor(monitor, by_kind["Service"])
    yield from _names(objects)


def name_of(found):
    return f"{found['kind']} {found['metadata']['name']}"


def pod_spec(found):
    return found["spec"]["template"]["spec"]


def variables(container):
    return {entry["name"]: entry.get("value") for entry in container.get("env", [])}


def _pod(found, foreign):
    """What holds of the host's pods and of the pod that migrates."""
    spec, (container,) = pod_spec(found), pod_spec(found)["containers"]
    where, given = name_of(found), variables(container)
    names = [entry["name"] for entry in container.get("env", [])]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{where}: the variable {name} is given twice"
    for name in names:
        if name not in program.VARIABLES | set(foreign):
            yield f"{where}: the program has no variable {name}"
        if name.endswith("_FILE") and name.removesuffix("_FILE") in names:
            yield f"{where}: {name} and {name.removesuffix('_FILE')} are both given"
    for command in container["args"]:
        if command not in program.COMMANDS:
            yield f"{where}: the program has no command {command}"
    yield from _sandboxed(where, spec, container)
    yield from _files(where, spec, container)


def _sandboxed(where, spec, container):
    security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    wanted = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "fsGroup": 65532,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for key, value in wanted.items():
        if security.get(key) != value:
            yield f"{where}: {key} is {security.get(key)!r} and not {value!r}"
    if spec.get("automountServiceAccountToken") is not False:
        yield f"{where}: the token of the service account is mounted, and nothing needs it"
    if spec.get("enableServiceLinks") is not False:
        yield f"{where}: variables of Services can look like settings; enableServiceLinks must be false"


def _files(where, spec, container):
    """Each volume is mounted, each file of a setting is in a mount, and secrets are not for others."""
    mounts = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for name in sorted(set(mounts) ^ set(volumes)):
        yield f"{where}: the volume {name} is not both declared and mounted"
    for name, volume in volumes.items():
        mode = next((volume[kind].get("defaultMode", 0o644) for kind in ("secret", "projected") if kind in volume), 0)
        if mode & 0o027:
            yield f"{where}: others may read the secrets in the volume {name}, its mode is {mode:o}"
    for variable, value in variables(container).items():
        folders = ("OUTBOX_CONFIG", "OUTBOX_CACHE_DIR", "OUTBOX_MANIFESTS")
        is_path = variable.endswith("_FILE") or variable in folders
        holders = [name for name, mount in mounts.items() if f"{value}/".startswith(mount["mountPath"] + "/")]
        if is_path and not holders:
            yield f"{where}: {variable} is {value}, which is in no volume"
        if variable == "OUTBOX_CACHE_DIR" and holders:
            yield from _cache(where, value, mounts[holders[0]])


def _cache(where, folder, mount):
    if mount.get("readOnly"):
        yield f"{where}: OUTBOX_CACHE_DIR is in the volume {mount['name']}, which is mounted read-only"
    if folder == mount["mountPath"]:
        yield f"{where}: OUTBOX_CACHE_DIR must be a folder below {folder}: a volume does not belong to the pod's user"


def _host(deployment):
    """What holds of the pods that run `serve` or `worker`."""
    spec, (container,) = pod_spec(deployment), pod_spec(deployment)["containers"]
    where, given = name_of(deployment), variables(container)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    address, _, port = given.get("OUTBOX_LISTEN", program.DEFAULTS["OUTBOX_LISTEN"]).rpartition(":")
    if address.startswith("127.") or address == "[::1]":
        yield f"{where}: OUTBOX_LISTEN is {address}, which no probe reaches"
    if not {"OUTBOX_TOKEN_FILE", "OUTBOX_TOKENS_FILE"} & set(given):
        yield f"{where}: it listens beyond loopback without a token"
    if list(ports.values()) != [int(port)]:
        yield f"{where}: OUTBOX_LISTEN has the port {port}, and the container {list(ports.values())}"
    if given.get("OUTBOX_ENABLED") != "true":
        yield f"{where}: OUTBOX_ENABLED is not true, so nothing is durable"
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        yield from _probe(where, probe, container.get(probe, {}).get("httpGet", {}), path, ports)
    yield from _start(where, container, given)
    yield from _grace(where, spec, container, given)
    yield from _plugins(where, deployment, container, given)


def _probe(where, probe, request, path, ports):
    if request.get("path") != path or program.RIGHTS.get(path) != "none":
        yield f"{where}: the {probe} asks {request.get('path')} and not {path}, which needs no token"
    if ports.get(request.get("port"), request.get("port")) not in ports.values():
        yield f"{where}: the {probe} asks the port {request.get('port')}, and the container has {ports}"


def _start(where, container, given):
    probe = container.get("startupProbe", {})
    patience = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    if given.get("OUTBOX_MIGRATE", "auto") == "auto" and patience < LONG_MIGRATION:
        yield f"{where}: a migration at the start is killed after {patience} seconds"


def _grace(where, spec, container, given):
    grace = spec.get("terminationGracePeriodSeconds", KUBERNETES_GRACE)
    drain = int(given.get("OUTBOX_DRAIN_SEC", program.DEFAULTS["OUTBOX_DRAIN_SEC"]))
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = drain + sleep + program.SECONDS_AFTER_DRAIN
    if grace < needed:
        yield f"{where}: the grace period of {grace} seconds is shorter than the {needed} that a shutdown may take"


def _plugins(where, deployment, container, given):
    """A role's handlers are mounted where a host of this role looks for them, or its images have manifests."""
    folder, role = given.get("OUTBOX_PLUGINS"), given.get("OUTBOX_ROLE")
    mounted = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "plugins"]
    has_images = "oci://" in folder
    if has_images and "OUTBOX_MANIFESTS" not in given:
        yield f"{where}: the components of {folder} have no manifests"
    wanted = [f"{folder}/{role}"] if role and not has_images else []
    if mounted != wanted:
        yield f"{where}: handlers are mounted at {mounted}, and a host of the role {role} looks for them at {wanted}"
    component = deployment["metadata"]["labels"].get("app.kubernetes.io/component")
    if role and role != component:
        yield f"{where}: OUTBOX_ROLE is {role}, and the label of the role is {component}"


def _migration(by_kind):
    """The hosts migrate by themselves, or a Job does; `migrate` alone of a Kustomize example has no hosts."""
    has_job = any("migrate" in pod_spec(job)["containers"][0]["args"] for job in by_kind["Job"])
    for deployment in by_kind["Deployment"]:
        setting = variables(pod_spec(deployment)["containers"][0]).get("OUTBOX_MIGRATE", "auto")
        if (setting == "never") != has_job:
            is_there = "is there" if has_job else "is not there"
            yield f"{name_of(deployment)}: OUTBOX_MIGRATE is {setting}, and a Job that migrates {is_there}"


def _plain(found):
    return found["spec"].get("selector", {})


def _labelled(found):
    return found["spec"].get("selector", {}).get("matchLabels", {})


def _pods(found):
    return found["spec"]["podSelector"].get("matchLabels", {})


def _selects_one(found, selector, pods):
    def has(pod):
        return selector.items() <= pod["spec"]["template"]["metadata"].get("labels", {}).items()

    selected = [pod["metadata"]["name"] for pod in pods if has(pod)]
    if selected != [found["metadata"]["name"]]:
        yield f"{name_of(found)}: it selects the pods of {selected}"


def _policy(policy):
    allowed = policy["spec"].get("egress", [])
    asked = {port["port"] for rule in allowed for port in rule.get("ports", [])}
    if 53 not in asked:
        yield f"{name_of(policy)}: names cannot be looked up"
    for rule in policy["spec"].get("ingress", []):
        if not rule.get("from"):
            yield f"{name_of(policy)}: everybody may call"
        if [port["port"] for port in rule.get("ports", [])] != ["http"]:
            yield f"{name_of(policy)}: callers do not reach the port http"


def _service(service):
    (port,) = service["spec"]["ports"]
    if port["targetPort"] != "http" or port["name"] != "http":
        yield f"{name_of(service)}: it does not lead to the port http"


def _monitor(monitor, services):
    where, spec = name_of(monitor), monitor["spec"]
    yield from _unknown_fields(where, spec, SERVICE_MONITOR)
    selector = spec["selector"]["matchLabels"]
    selected = [found for found in services if selector.items() <= found["metadata"]["labels"].items()]
    if not selected:
        yield f"{where}: it selects no Service"
    for endpoint in spec["endpoints"]:
        if program.RIGHTS.get(endpoint["path"]) != "scrape":
            yield f"{where}: {endpoint['path']} is no path with metrics"
        if "credentials" not in endpoint.get("authorization", {}):
            yield f"{where}: {endpoint['path']} needs a token, and none is given"
        for service in selected:
            if endpoint["port"] not in [port["name"] for port in service["spec"]["ports"]]:
                yield f"{where}: {name_of(service)} has no port {endpoint['port']}"
        if endpoint["path"] == "/metrics/store" and len(selected) != 1:
            yield f"{where}: {len(selected)} Services would tell of one store"


def _unknown_fields(where, value, known):
    for part in value if isinstance(value, list) else [value]:
        for key, inner in part.items():
            if key not in known:
                yield f"{where}: a ServiceMonitor has no field {key} here"
            elif known[key] and key != "matchLabels":
                yield from _unknown_fields(where, inner, known[key])


def _names(objects):
    seen = collections.Counter(name_of(found) for found in objects)
    for name, times in seen.items():
        if times > 1:
            yield f"{name}: {times} objects have this name"
        if len(name.split(" ")[1]) > 63:
            yield f"{name}: the name is longer than 63 characters"
