"""The files below deploy/ for Kubernetes and docker-compose, rendered by the real tools (`make deploy-check`).

The last part plants faults into copies of these files, and each one must be found.
"""

import contextlib
import pathlib
import re
import shutil
import tempfile
import unittest

import compose_rules
import program
import rendering
import rules

IMAGE = {"image": {"repository": "registry.example/outbox"}}
EDGE = {"name": "edge", "command": "serve", "replicas": 2}
VECTOR = {
    "name": "vector",
    "replicas": 3,
    "plugins": {"image": {"reference": "registry.example/vector-handlers:1.0.0"}},
    "env": {"VECTOR_URL": "http://vector.example"},
}
BELIEF = {"name": "belief", "plugins": {"configMap": "belief-handlers"}, "env": {"BELIEF_URL": "http://belief.example"}}
MAIL = {
    "name": "mail",
    "command": "worker",
    "plugins": {
        "registry": {
            "images": ["registry.example/mail/smtp:stable", f"registry.example:5000/fax@sha256:{'0' * 64}"],
            "manifests": "mail-manifests",
            "secret": "registry",
        }
    },
}
AUDIT = {"name": "audit", "command": "serve", "drainSec": 90}
ROLES = {1: [EDGE], 2: [VECTOR, BELIEF], 5: [EDGE, VECTOR, BELIEF, MAIL, AUDIT]}

PEER = {"podSelector": {"matchLabels": {"app": "shop"}}}
# Each option away from its default.
OPTIONS = {
    "no migration": {"migrate": {"enabled": False}},
    "no disruption budget": {"podDisruptionBudget": {"enabled": False}},
    "a share as disruption budget": {"podDisruptionBudget": {"maxUnavailable": "25%"}},
    "closed network": {"networkPolicy": {"enabled": True}},
    "network": {"networkPolicy": {"enabled": True, "callers": [PEER], "scrapers": [PEER], "database": [PEER]}},
    "monitor": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "digest": {"image": {"digest": "sha256:" + "0" * 64}},
    "pull secrets": {"imagePullSecrets": [{"name": "registry"}]},
    "pooler": {"database": {"listenUrlKey": "listen", "passwordKey": "password"}},
    "sessions": {"sessionKey": {"secret": "outbox-session"}},
    "sagas": {"config": '[sagas.Onboarding]\nsteps = ["mail", "crm"]\n'},
    "settings": {"settings": {"OUTBOX_CONCURRENCY": 1000000, "GOVERNOR_STRICT_MODE": True, "OUTBOX_REDACT": "card.*"}},
    "secrets": {"secretFiles": [{"variable": "VECTOR_TOKEN", "secret": "vector", "key": "token"}]},
    "files": {
        "files": [{"name": "ca", "configMap": "company-ca"}, {"name": "db", "secret": "database-ca"}],
        "settings": {"OUTBOX_CA_FILE": "/etc/outbox/files/ca/ca.pem"},
    },
    "long drain": {"drainSec": 600},
    "no wait before a stop": {"preStopSec": 0},
    "another port": {"port": 9090},
    "place": {
        "serviceAccountName": "outbox",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "outbox", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "high",
        "podLabels": {"team": "orders"},
        "podAnnotations": {"note": "1"},
        "resources": {"limits": {"memory": "2Gi"}},
    },
}
FOREIGN = {"VECTOR_URL", "BELIEF_URL", "VECTOR_TOKEN_FILE"}
COMPOSE = rendering.ROOT / "deploy/compose/docker-compose.yml"
REGISTRY = rendering.ROOT / "deploy/compose/registry.yml"
KUSTOMIZE = rendering.ROOT / "deploy/kustomize"


def merged(*parts):
    """Values like those of several `--values` files."""
    result = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def cases():
    """One, two and five roles, with no option, with each one alone, and with all of them."""
    options = {"defaults": {}, **OPTIONS, "everything": merged(*OPTIONS.values())}
    for count, roles in ROLES.items():
        for name, values in options.items():
            yield f"{count} roles, {name}", merged(IMAGE, {"roles": roles}, values)


def problems(rendered):
    return [*rules.faults(rendered, FOREIGN), *rendering.invalid(rendered)]


class Chart(unittest.TestCase):
    def test_every_combination_is_valid_and_agrees_with_the_program(self):
        for name, values in cases():
            with self.subTest(name):
                rendered = rendering.chart(values)
                deployments = [found for found in rendered if found["kind"] == "Deployment"]
                self.assertEqual(len(deployments), len(values["roles"]))
                self.assertEqual(problems(rendered), [])

    def test_the_linter_accepts_it(self):
        for roles in ROLES.values():
            rendering.lint(merged(IMAGE, {"roles": roles}, *OPTIONS.values()))

    def test_an_option_makes_the_objects_that_it_names(self):
        kinds = {"networkPolicy": "NetworkPolicy", "podDisruptionBudget": "PodDisruptionBudget"}
        for option, kind in {**kinds, "serviceMonitor": "ServiceMonitor", "migrate": "Job"}.items():
            for enabled in (True, False):
                rendered = rendering.chart(merged(IMAGE, {option: {"enabled": enabled}}))
                self.assertEqual(any(found["kind"] == kind for found in rendered), enabled, kind)

    def test_a_role_overrides_what_holds_for_all_roles(self):
        role = {**EDGE, "settings": {"OUTBOX_CONCURRENCY": 8}, "drainSec": 0, "priorityClassName": "low", "replicas": 0}
        shared = {"settings": {"OUTBOX_CONCURRENCY": 64, "OUTBOX_PREFETCH": 0}, "priorityClassName": "high"}
        rendered = rendering.chart(merged(IMAGE, shared, {"roles": [role]}))
        (deployment,) = [found for found in rendered if found["kind"] == "Deployment"]
        given = rules.variables(rules.pod_spec(deployment)["containers"][0])
        asked = ("OUTBOX_CONCURRENCY", "OUTBOX_PREFETCH", "OUTBOX_DRAIN_SEC", "OUTBOX_LOG")
        self.assertEqual([given[name] for name in asked], ["8", "0", "0", "json"])
        self.assertEqual((deployment["spec"]["replicas"], rules.pod_spec(deployment)["priorityClassName"]), (0, "low"))

    def test_names_stay_short_enough_for_long_releases(self):
        rendered = rendering.chart(merged(IMAGE, {"roles": [{"name": "r" * 40}]}), release="s" * 53)
        self.assertEqual(problems(rendered), [])

    def test_every_setting_can_be_given_or_is_the_charts_own(self):
        schema = (rendering.CHART / "values.schema.json").read_text()
        given = {name for name in re.findall(r'"((?:OUTBOX|GOVERNOR)_[A-Z_]+)"', schema)}
        own = {
            *("OUTBOX_BACKEND", "OUTBOX_CACHE_DIR", "OUTBOX_DRAIN_SEC", "OUTBOX_ENABLED"),
            *("OUTBOX_LISTEN", "OUTBOX_MANIFESTS", "OUTBOX_MIGRATE", "OUTBOX_PLUGINS", "OUTBOX_REGISTRY_AUTH_FILE"),
            *("OUTBOX_ROLE", "OUTBOX_TOKENS_FILE"),
        }
        secrets = {"OUTBOX_DB", "OUTBOX_DB_LISTEN", "OUTBOX_DB_PASSWORD", "OUTBOX_SESSION_KEY", "OUTBOX_TOKEN"}
        own |= secrets | {f"{name}_FILE" for name in secrets}
        self.assertEqual(given & own, set())
        self.assertEqual(given | own, set(program.DEFAULTS))

    def test_its_versions_and_its_port_are_those_of_the_program(self):
        chart = (rendering.CHART / "Chart.yaml").read_text()
        self.assertIn(f"\nversion: {program.VERSION}\n", chart)
        self.assertIn(f'\nappVersion: "{program.VERSION}"\n', chart)
        self.assertIn(f"\nport: {program.PORT}\n", (rendering.CHART / "values.yaml").read_text())


class BadValues(unittest.TestCase):
    def refused(self, values, *said):
        with self.assertRaises(rendering.Refused) as refused:
            rendering.chart(merged(IMAGE, values))
        for words in said:
            self.assertIn(words, str(refused.exception))

    def test_each_is_refused_with_its_name_and_the_reason(self):
        self.refused({"image": {"repository": ""}}, "image.repository: name the image in a registry of yours")
        self.refused({"replica": 3}, "additional properties 'replica' not allowed")
        self.refused({"roles": []}, "'/roles'", "minItems")
        self.refused({"roles": [{"command": "serve"}]}, "'/roles/0'", "missing property 'name'")
        self.refused({"roles": [{"name": "Vector"}]}, "'/roles/0/name'", "'Vector' does not match")
        self.refused({"roles": [EDGE, EDGE]}, 'the name "edge" is given twice')
        self.refused({"roles": [{"name": "a", "command": "run"}]}, "'/roles/0/command'", "'serve', 'worker'")
        self.refused({"roles": [{"name": "a", "replicas": -1}]}, "'/roles/0/replicas'", "got -1, want 0")
        self.refused({"settings": {"OUTBOX_CONCURENCY": 8}}, "'OUTBOX_CONCURENCY'", "'OUTBOX_CONCURRENCY'")
        self.refused({"settings": {"OUTBOX_DB": "x"}}, "'OUTBOX_DB'")
        self.refused({"env": {"OUTBOX_PREFETCH": "8"}}, "OUTBOX_PREFETCH is a setting of the program")
        self.refused({"roles": [{**EDGE, "env": {"OUTBOX_PREFETCH": "8"}}]}, "OUTBOX_PREFETCH is a setting")
        self.refused({"drainSec": "20s"}, "'/drainSec'", "got string, want integer")
        self.refused({"drainSec": 4000}, "'/drainSec'", "3,600")
        self.refused({"port": 80}, "'/port'", "1,024")
        self.refused({"image": {"digest": "sha256:1"}}, "'/image/digest'")
        self.refused({"files": [{"name": "ca"}]}, '"ca" needs either a secret or a configMap')
        self.refused({"podDisruptionBudget": {"maxUnavailable": 0}}, "'/podDisruptionBudget/maxUnavailable'")
        self.refused({"serviceMonitor": {"enabled": True, "storeRole": "x"}}, 'there is no role "x"')
        both = {"image": {"reference": "a"}, "configMap": "b"}
        self.refused({"roles": [{"name": "a", "plugins": both}]}, "not from several of them")
        for images in ([], ["registry.example/mail"], ["Mail:1"], ["oci://registry.example/mail:1"]):
            registry = {"images": images, "manifests": "m"}
            self.refused({"roles": [{"name": "a", "plugins": {"registry": registry}}]}, "'/roles/0/plugins/registry/images")
        registry = {"images": ["registry.example/mail:1"]}
        self.refused({"roles": [{"name": "a", "plugins": {"registry": registry}}]}, "missing property 'manifests'")


def without_session_key(rendered):
    """The roles with several pods that serve and do not accept each other's log-ins."""
    for found in rendered:
        if found["kind"] == "Deployment" and found["spec"]["replicas"] > 1:
            (container,) = rules.pod_spec(found)["containers"]
            if container["args"] == ["serve"] and "OUTBOX_SESSION_KEY_FILE" not in rules.variables(container):
                yield found["metadata"]["name"]


class Example(unittest.TestCase):
    def test_the_values_of_the_document_are_valid_and_share_log_ins(self):
        page = program.read("docs/deploying.md")
        rendered = rendering.chart(rendering.parsed(page.split("```yaml\n# values.yaml\n")[1].split("```")[0]))
        self.assertEqual(problems(rendered), [])
        self.assertEqual(list(without_session_key(rendered)), [])

    def test_the_notes_warn_of_pods_that_do_not_share_log_ins(self):
        for session, warns in (({}, True), (OPTIONS["sessions"], False)):
            notes = rendering.notes(merged(IMAGE, {"roles": [EDGE, VECTOR]}, session))
            self.assertEqual("WARNING: edge has several pods" in notes, warns, notes)
        self.assertNotIn("WARNING", rendering.notes(merged(IMAGE, {"roles": [VECTOR, {**EDGE, "replicas": 1}]})))


class Kustomize(unittest.TestCase):
    def test_the_example_is_valid_and_agrees_with_the_program(self):
        rendered = [*rendering.kustomize(KUSTOMIZE), *rendering.kustomize(KUSTOMIZE / "migrate")]
        self.assertEqual(problems(rendered), [])
        self.assertEqual(list(without_session_key(rendered)), [])
        deployments = [found["metadata"]["name"] for found in rendered if found["kind"] == "Deployment"]
        self.assertEqual(sorted(deployments), ["outbox-belief", "outbox-edge", "outbox-vector"])
        images = {rules.pod_spec(pod)["containers"][0]["image"] for pod in rendered if pod["kind"] in ("Deployment", "Job")}
        self.assertEqual(images, {f"registry.example/outbox:{program.VERSION}"})


    def test_handlers_may_come_from_a_registry(self):
        rendered = rendering.kustomize(KUSTOMIZE / "registry")
        self.assertEqual(problems([*rendered, *rendering.kustomize(KUSTOMIZE / "migrate")]), [])
        plugins = {
            found["metadata"]["name"]: rules.variables(rules.pod_spec(found)["containers"][0])["OUTBOX_PLUGINS"]
            for found in rendered
            if found["kind"] == "Deployment"
        }
        self.assertEqual({name for name, value in plugins.items() if "oci://" in value}, {"outbox-vector", "outbox-belief"})
        images = {rules.pod_spec(pod)["containers"][0]["image"] for pod in rendered if pod["kind"] == "Deployment"}
        self.assertEqual(images, {f"registry.example/outbox:{program.VERSION}"})


class Compose(unittest.TestCase):
    def test_the_file_is_valid_and_agrees_with_the_program(self):
        config = rendering.compose(COMPOSE)
        self.assertEqual(list(compose_rules.faults(config)), [])
        self.assertEqual(sorted(config["services"]), ["belief", "edge", "migrate", "postgres", "vector"])
        self.assertIn(f"OUTBOX_VERSION:-{program.VERSION}", COMPOSE.read_text())

    def test_handlers_may_come_from_a_registry(self):
        config = rendering.compose(COMPOSE, REGISTRY)
        # The first generation of docker-compose forgets `pull_policy` where it merges files.
        found = [fault for fault in compose_rules.faults(config) if "may be pulled" not in fault]
        self.assertEqual(found, [])
        for role in ("vector", "belief"):
            self.assertIn("oci://", config["services"][role]["environment"]["OUTBOX_PLUGINS"])
        self.assertNotIn("oci://", config["services"]["edge"]["environment"]["OUTBOX_PLUGINS"])

    def test_a_forgotten_url_is_refused_before_anything_starts(self):
        with self.assertRaisesRegex(rendering.Refused, "is the URL of the service that vector calls"):
            rendering.compose(COMPOSE, urls={"BELIEF_URL": "http://belief.example"})


@contextlib.contextmanager
def changed(folder, file, old, new):
    """A copy of a folder in which a text of one file is another."""
    with tempfile.TemporaryDirectory() as place:
        copy = pathlib.Path(shutil.copytree(folder, pathlib.Path(place) / folder.name))
        text = (copy / file).read_text()
        assert old in text, f"{file} has no {old!r}"
        (copy / file).write_text(text.replace(old, new))
        yield copy


# A file of the chart, what is replaced in it, and words of the fault that must be found.
PLANTED = [
    ("deployment.yaml", "port: http}\n            periodSeconds: 10", "port: 8080}", "the livenessProbe asks the port 8080"),
    ("deployment.yaml", "path: /readyz", "path: /ready", "the readinessProbe asks /ready and not /readyz"),
    ("deployment.yaml", "path: /healthz", "path: /readyz", "the livenessProbe asks /readyz and not /healthz"),
    ("deployment.yaml", "containerPort: {{ $.Values.port | int }}", "containerPort: 7000", "and the container [7000]"),
    ("deployment.yaml", "value: 0.0.0.0:", "value: 127.0.0.1:", "which no probe reaches"),
    ("deployment.yaml", "OUTBOX_DRAIN_SEC", "OUTBOX_DRAIN_SECONDS", "no variable OUTBOX_DRAIN_SECONDS"),
    ("deployment.yaml", "add $preStop $drain 5", "$drain", "is shorter than the 26 that a shutdown may take"),
    ("deployment.yaml", "name: OUTBOX_TOKENS_FILE", "name: OUTBOX_LOG", "without a token"),
    ("deployment.yaml", "/var/cache/outbox/compiled", "/var/cache/outbox", "must be a folder below"),
    ("deployment.yaml", "mountPath: /var/cache/outbox", "mountPath: /var/cache/other", "which is in no volume"),
    ("deployment.yaml", "mountPath: /plugins/{{ $role.name }}", "mountPath: /plugins", "handlers are mounted at"),
    ("deployment.yaml", "value: /manifests", "value: /manifest", "OUTBOX_MANIFESTS is /manifest, which is in no volume"),
    ("deployment.yaml", "name: OUTBOX_MANIFESTS", "name: OUTBOX_CA_FILE", "have no manifests"),
    ("deployment.yaml", "path: config.json", "name: config.json", "'path' is a required property"),
    ("deployment.yaml", "args: [{{ $role.command", 'args: [start, {{ $role.command', "no command start"),
    ("deployment.yaml", "defaultMode: 0440", "defaultMode: 0444", "others may read the secrets"),
    ("deployment.yaml", "enableServiceLinks: false", "enableServiceLinks: true", "can look like settings"),
    ("deployment.yaml", "imagePullPolicy:", "imagePulPolicy:", "imagePulPolicy"),
    ("deployment.yaml", 'ternary "never" "auto"', 'ternary "auto" "never"', "OUTBOX_MIGRATE is auto"),
    ("deployment.yaml", '"never" "auto"', '"auto" "auto"', "a migration at the start is killed after 120 seconds"),
    ("_helpers.tpl", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRootFilesystem is False"),
    ("_helpers.tpl", "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot is False"),
    ("_helpers.tpl", "/etc/outbox/database/{{ .Values", "/etc/database/{{ .Values", "OUTBOX_DB_FILE is /etc/database/url"),
    ("service.yaml", "targetPort: http", "targetPort: web", "does not lead to the port http"),
    ("service.yaml", 'include "outbox.role.selector" $scope', 'include "outbox.labels" $', "selects the pods of"),
    ("poddisruptionbudget.yaml", "matchLabels:", "matchLabel:", "matchLabel"),
    ("networkpolicy.yaml", "- port: http", "- port: 80", "do not reach the port http"),
    ("networkpolicy.yaml", "  {{- if $peers }}", "  {{- if true }}", "everybody may call"),
    ("_helpers.tpl", "port: 53", "port: 54", "names cannot be looked up"),
    ("migrate.yaml", "component: migrate", "component: edge", "NetworkPolicy shop-outbox-edge: it selects the pods of"),
    ("servicemonitor.yaml", "- port: http", "- port: metrics", "has no port metrics"),
    ("servicemonitor.yaml", '"/metrics/store"', '"/metrics-store"', "/metrics-store is no path with metrics"),
    ("servicemonitor.yaml", "relabelings:", "relabelConfigs:", "no field relabelConfigs"),
    ("servicemonitor.yaml", 'if eq $page "store"', "if false", "Services would tell of one store"),
    ("migrate.yaml", "args: [migrate]", "args: [migrat]", "no command migrat"),
]


class PlantedFaults(unittest.TestCase):
    def test_each_fault_in_the_chart_is_found(self):
        values = merged(IMAGE, {"roles": [EDGE, VECTOR, MAIL]}, OPTIONS["monitor"], {"networkPolicy": {"enabled": True}})
        for file, old, new, said in PLANTED:
            with self.subTest(said), changed(rendering.CHART, f"templates/{file}", old, new) as chart:
                callers = {"networkPolicy": {"scrapers": [] if "true" in new else [PEER]}}
                found = problems(rendering.chart(merged(values, callers), chart))
                self.assertTrue(any(said in problem for problem in found), found)

    def test_a_fault_in_the_kustomize_example_is_found(self):
        with changed(KUSTOMIZE, "base/deployment.yaml", "PeriodSeconds: 30", "PeriodSeconds: 20") as folder:
            found = problems(rendering.kustomize(folder))
        self.assertTrue(any("shorter than the 26" in problem for problem in found), found)

    def test_each_fault_in_the_compose_file_is_found(self):
        for old, new, said in [
            ("stop_grace_period: 25s", "stop_grace_period: 20s", "shorter than the 21"),
            ("OUTBOX_MIGRATE:", "OUTBOX_MIGRATION:", "no variable OUTBOX_MIGRATION"),
            (":7070:7070", ":7070:8080", "leads to 8080"),
            ("/plugins/vector:ro", "/plugins:ro", "looks for its handlers"),
            ("command: [worker]", "command: [work]", "no command work"),
            ("/run/secrets/tokens", "/run/secrets/token", "no secret of this service"),
            ("OUTBOX_SESSION_KEY_FILE: ", "OUTBOX_CA_FILE: ", "there is no session key"),
            ("pull_policy: never", "pull_policy: always", "may be pulled"),
        ]:
            with self.subTest(said), changed(COMPOSE.parent, COMPOSE.name, old, new) as folder:
                found = list(compose_rules.faults(rendering.compose(folder / COMPOSE.name)))
                self.assertTrue(any(said in problem for problem in found), found)


if __name__ == "__main__":
    unittest.main()
