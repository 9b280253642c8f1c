"""The manifests: their schemas, probes, security, and the times a pod is given to stop."""

from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from tests.support.declared import MANIFESTS, PROCESSES, from_kubernetes, manifest_files, manifests, pod_specs

OBJECTS = {(document["kind"], document["metadata"]["name"]): document for document in manifests()}
PODS = dict(pod_specs())


@pytest.mark.parametrize("document", OBJECTS.values(), ids=["-".join(key) for key in OBJECTS])
def test_object_fits_its_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, "1.34", strict=True)


def test_kustomization_names_every_file_but_the_example() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    files = {path.name for path in manifest_files()}
    assert set(kustomization["resources"]) == files - {"secret.example.yaml"}


def test_example_of_secrets_holds_no_value() -> None:
    secrets = [document for (kind, _), document in OBJECTS.items() if kind == "Secret"]
    assert secrets
    assert all(value == "" for secret in secrets for value in secret["stringData"].values())


@pytest.mark.parametrize("name", [*PROCESSES, "migrate"])
def test_pod_passes_the_restricted_standard_and_writes_nothing(name: str) -> None:
    pod = PODS[name]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", [*PROCESSES, "migrate"])
def test_services_put_no_variables_into_a_pod(name: str) -> None:
    assert PODS[name]["enableServiceLinks"] is False  # DAYBOOK_QUERY_SERVICE_HOST would stop the process as unknown


@pytest.mark.parametrize("name", [*PROCESSES, "migrate"])
def test_pod_mounts_only_secrets_of_its_own(name: str) -> None:
    names = {volume["secret"]["secretName"] for volume in PODS[name]["volumes"]}
    role = {"migrate": "migrator", "clock": "command"}.get(name, name)
    assert names == {f"daybook-postgres-{role}"} | ({"daybook-redis"} if name in ("command", "monitor") else set())


@pytest.mark.parametrize("name", PROCESSES)
def test_probes_ask_the_port_that_the_process_listens_on(name: str) -> None:
    (container,) = PODS[name]["containers"]
    (port,) = container["ports"]
    environment = from_kubernetes()[name].environment
    assert str(port["containerPort"]) == environment.get("DAYBOOK_HTTP_PORT", environment.get("DAYBOOK_HEALTH_PORT"))
    paths = {"startupProbe": "/health/live", "livenessProbe": "/health/live", "readinessProbe": "/health/ready"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}


@pytest.mark.parametrize("name", PROCESSES)
def test_service_leads_to_the_pods_of_its_process(name: str) -> None:
    deployment, service = OBJECTS["Deployment", f"daybook-{name}"], OBJECTS["Service", f"daybook-{name}"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,) = service["spec"]["ports"]
    (container,) = PODS[name]["containers"]
    assert port["targetPort"] in {each["name"] for each in container["ports"]}


def test_each_name_that_the_monitor_asks_has_all_pods_of_a_process_ready_or_not() -> None:
    for url in from_kubernetes()["monitor"].environment["DAYBOOK_METRICS_URLS"].split():
        asked = urlsplit(url)
        service = OBJECTS["Service", asked.hostname or ""]["spec"]
        assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
        name = service["selector"]["app.kubernetes.io/component"]
        (container,) = PODS[name]["containers"]
        assert [asked.port] == [port["containerPort"] for port in container["ports"]]


@pytest.mark.parametrize("name", PROCESSES)
def test_pod_has_time_to_drain_and_to_stop(name: str) -> None:
    (container,) = PODS[name]["containers"]
    drain_seconds = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert PODS[name]["terminationGracePeriodSeconds"] > drain_seconds + 10  # a process ends within 10 s of SIGTERM


def test_ingress_has_a_host_for_each_side_and_leads_to_it() -> None:
    rules = OBJECTS["Ingress", "daybook"]["spec"]["rules"]
    backends = {rule["host"]: {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} for rule in rules}
    assert list(backends.values()) == [{"daybook-command"}, {"daybook-query"}]
    assert len(backends) == 2
    paths = {path["path"] for rule in rules for path in rule["http"]["paths"]}
    assert not {path for path in paths if path.startswith(("/metrics", "/health")) or path == "/"}
