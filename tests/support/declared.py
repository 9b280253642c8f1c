"""What docker-compose.yml and deploy/kubernetes declare about each process: its command and its whole environment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
MANIFESTS = ROOT / "deploy" / "kubernetes"
PROCESSES = ("command", "query", "relay", "projector", "clock", "monitor")
ONCE = ("roles", "migrate")


class Declared(NamedTuple):
    """One process as one of the two describes it. `files`: every path in its container that a secret or a config fills."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    files: frozenset[str]


def compose() -> dict[str, Any]:
    """The Compose file, its merge keys resolved."""
    document: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return document


def manifests() -> list[dict[str, Any]]:
    """Every object of deploy/kubernetes, the example of Secrets among them, but for the kustomization itself."""
    return [document for path in manifest_files() for document in yaml.safe_load_all(path.read_text())]


def manifest_files() -> list[Path]:
    """The files that hold objects."""
    return sorted(path for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml")


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod of each process and of the migration, by its component's name."""
    for document in manifests():
        if document["kind"] in ("Deployment", "Job"):
            yield document["metadata"]["labels"]["app.kubernetes.io/component"], document["spec"]["template"]["spec"]


def from_compose() -> dict[str, Declared]:
    """Daybook's own services of the Compose file."""
    document = compose()
    found = {}
    for name in (*PROCESSES, *ONCE):
        service = document["services"].get(name)
        if service is None:
            continue
        files = {f"/run/secrets/{secret}" for secret in service.get("secrets", ()) if secret in document["secrets"]}
        files |= {each["target"] for each in service.get("configs", ()) if each["source"] in document["configs"]}
        found[name] = Declared(name, tuple(service["command"]), dict(service["environment"]), frozenset(files))
    return found


def from_kubernetes() -> dict[str, Declared]:
    """Daybook's own containers of the manifests, values taken from the ConfigMap."""
    objects = {(document["kind"], document["metadata"]["name"]): document for document in manifests()}
    found = {}
    for name, pod in pod_specs():
        (container,) = pod["containers"]
        environment = {}
        for variable in container["env"]:
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["configMapKeyRef"]
                environment[variable["name"]] = objects["ConfigMap", reference["name"]]["data"][reference["key"]]
            else:
                environment[variable["name"]] = variable["value"]
        secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"]}
        files = {
            f"{mount['mountPath']}/{key}"
            for mount in container["volumeMounts"]
            for key in objects["Secret", secrets[mount["name"]]]["stringData"]
        }
        found[name] = Declared(name, tuple(container["command"]), environment, frozenset(files))
    return found
