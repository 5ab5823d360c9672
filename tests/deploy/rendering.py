"""Runs helm, kubectl and docker-compose, and validates objects by the schemas of Kubernetes.

The variables HELM, KUBECTL and COMPOSE name the programs; `make deploy-check` sets them.
"""

import functools
import json
import os
import subprocess

import kubernetes_validate
import kubernetes_validate.utils
import yaml

from program import ROOT

CHART = ROOT / "deploy/helm/outbox"
KUBERNETES = "1.35"

# Each call would read the same large files again.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


class Refused(Exception):
    """What a program said when it refused."""


def run(tool, *words, stdin=None, cwd=ROOT, variables=None):
    words, environment = [os.environ[tool], *map(str, words)], {**os.environ, **(variables or {})}
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, cwd=cwd, env=environment)
    if done.returncode != 0:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def objects(text):
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def chart(values, chart=CHART, release="shop"):
    """The objects that the chart makes of these values."""
    words = ["template", release, chart, "--kube-version", KUBERNETES, "--namespace", "orders", "--values", "-"]
    return objects(run("HELM", *words, stdin=json.dumps(values)))


def notes(values):
    """What the chart says after an installation. No cluster is asked."""
    words = ["install", "shop", CHART, "--dry-run=client", "--values", "-"]
    return run("HELM", *words, stdin=json.dumps(values)).split("\nNOTES:\n")[1]


def parsed(text):
    return yaml.load(text, yaml.CSafeLoader)


def lint(values, chart=CHART):
    run("HELM", "lint", "--strict", "--kube-version", KUBERNETES, chart, "--values", "-", stdin=json.dumps(values))


def kustomize(folder):
    return objects(run("KUBECTL", "kustomize", folder))


def compose(*files, urls=None):
    urls = {"VECTOR_URL": "http://vector.example", "BELIEF_URL": "http://belief.example"} if urls is None else urls
    words = [word for file in files for word in ("--file", file)]
    return yaml.load(run("COMPOSE", *words, "config", cwd=files[0].parent, variables=urls), yaml.CSafeLoader)


@functools.cache
def _invalid(text):
    found = json.loads(text)
    try:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{found['kind']} {found['metadata']['name']}: {error.message}"
    return None


def invalid(rendered):
    """What the schemas of Kubernetes say against these objects. There is none for a ServiceMonitor."""
    texts = [json.dumps(found, sort_keys=True) for found in rendered if found["kind"] != "ServiceMonitor"]
    return [problem for problem in map(_invalid, texts) if problem]
