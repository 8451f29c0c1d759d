"""k8s/base as kubectl renders it, against Kubernetes' own schemas and against what the service is."""

import shutil
import subprocess
from pathlib import Path
from typing import cast

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic import JsonValue

from service.__main__ import DRAIN_SECONDS
from service.app import create_app
from service.settings import Settings, read_settings
from service.telemetry import Telemetry

PROJECT = Path(__file__).resolve().parents[2]
VERSIONS = ("1.30", "1.34", kubernetes_validate.latest_version())  # preStop's sleep came with 1.30

Mapping = dict[str, JsonValue]

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed, so the manifests cannot be rendered"
)


@pytest.fixture(scope="module")
def manifests() -> dict[str, Mapping]:
    """The rendered manifests by kind."""
    rendered = subprocess.run(
        ["kubectl", "kustomize", "k8s/base"],  # noqa: S607 - whichever kubectl is installed
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    documents = list(yaml.safe_load_all(rendered))
    assert len({document["kind"] for document in documents}) == len(documents)
    return {document["kind"]: document for document in documents}


def at(value: JsonValue, *path: str | int) -> JsonValue:
    """The part of a manifest that a path of keys and indexes leads to."""
    for step in path:
        value = cast("Mapping", value)[step] if isinstance(step, str) else cast("list[JsonValue]", value)[step]
    return value


def pod(manifests: dict[str, Mapping]) -> Mapping:
    return cast("Mapping", at(manifests["Deployment"], "spec", "template", "spec"))


def container(manifests: dict[str, Mapping]) -> Mapping:
    return cast("Mapping", at(pod(manifests), "containers", 0))


def settings(manifests: dict[str, Mapping]) -> Settings:
    """What the pod's process reads; a variable that is no setting is refused here as it is there."""
    return read_settings({}, cast("dict[str, str]", manifests["ConfigMap"]["data"]), None)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_manifest(manifests: dict[str, Mapping], version: str) -> None:
    """Nothing is misspelt or misplaced, in the oldest version we name and in the newest."""
    assert set(manifests) == {"ConfigMap", "Deployment", "Service"}
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_settings_are_ones_the_service_takes_and_the_pod_gets_them(manifests: dict[str, Mapping]) -> None:
    """A setting the service does not know would keep every pod from starting."""
    assert settings(manifests).host == "0.0.0.0"  # noqa: S104 - a pod has its own network
    name = at(manifests["ConfigMap"], "metadata", "name")
    assert at(container(manifests), "envFrom") == [{"configMapRef": {"name": name}}]
    assert pod(manifests)["enableServiceLinks"] is False


def test_everything_selects_the_pod(manifests: dict[str, Mapping]) -> None:
    """The Deployment and the Service find the pods that the template makes."""
    labels = at(manifests["Deployment"], "spec", "template", "metadata", "labels")
    assert at(manifests["Deployment"], "spec", "selector", "matchLabels") == labels
    assert at(manifests["Service"], "spec", "selector") == labels


def test_every_port_is_the_one_the_service_listens_on(manifests: dict[str, Mapping]) -> None:
    """Service, container, probes and Prometheus' annotations lead to TOUCHSTONE_PORT."""
    port = settings(manifests).port
    assert at(container(manifests), "ports") == [{"name": "http", "containerPort": port, "protocol": "TCP"}]
    assert at(manifests["Service"], "spec", "ports", 0, "targetPort") == "http"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert at(container(manifests), probe, "httpGet", "port") == "http"
    annotations = at(manifests["Deployment"], "spec", "template", "metadata", "annotations")
    assert at(annotations, "prometheus.io/port") == str(port)


def test_probes_and_scrapes_ask_for_what_the_service_answers(manifests: dict[str, Mapping]) -> None:
    """Live is asked of live and ready of ready, and each path exists."""
    paths = {probe: at(container(manifests), f"{probe}Probe", "httpGet", "path") for probe in ("startup", "readiness")}
    assert set(paths.values()) == {"/health/ready"}
    assert at(container(manifests), "livenessProbe", "httpGet", "path") == "/health/live"
    metrics = at(manifests["Deployment"], "spec", "template", "metadata", "annotations", "prometheus.io/path")
    known = create_app(Telemetry(CollectorRegistry())).openapi()["paths"]
    assert {"/health/ready", "/health/live", metrics} <= known.keys()


def test_the_pod_is_restricted(manifests: dict[str, Mapping]) -> None:
    """Pod Security Standards, profile "restricted", and a root file system that cannot be written."""
    assert at(pod(manifests), "securityContext", "runAsNonRoot") is True
    assert at(pod(manifests), "securityContext", "seccompProfile", "type") == "RuntimeDefault"
    assert container(manifests)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = cast("list[Mapping]", pod(manifests)["volumes"])
    assert all(volume.keys() == {"name", "emptyDir"} for volume in volumes)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod(manifests).keys()


def test_the_pod_runs_as_the_image_s_user(manifests: dict[str, Mapping]) -> None:
    """Files of the image belong to whom it was built for."""
    dockerfile = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    context = at(pod(manifests), "securityContext")
    assert f"USER {at(context, 'runAsUser')}:{at(context, 'runAsGroup')}\n" in dockerfile


def test_published_thresholds_can_be_written(manifests: dict[str, Mapping]) -> None:
    """The state directory is a volume; the rest of the root file system is not."""
    mounts = {at(mount, "mountPath") for mount in cast("list[JsonValue]", container(manifests)["volumeMounts"])}
    assert str(settings(manifests).state_dir) in mounts


def test_a_pod_is_given_time_to_drain(manifests: dict[str, Mapping]) -> None:
    """The preStop pause and draining fit into the grace period with seconds to spare: no request is cut off."""
    grace, pause = (
        pod(manifests)["terminationGracePeriodSeconds"],
        at(container(manifests), "lifecycle", "preStop", "sleep", "seconds"),
    )
    assert isinstance(grace, int)
    assert isinstance(pause, int)
    assert pause + DRAIN_SECONDS + 3 <= grace


def test_memory_fits_what_the_store_may_grow_to(manifests: dict[str, Mapping]) -> None:
    """The bounds of memory:// at 2 KB each, and 300 MB for the process, stay below the limit."""
    limit = at(container(manifests), "resources", "limits", "memory")
    assert limit == at(container(manifests), "resources", "requests", "memory")
    assert isinstance(limit, str)
    held = settings(manifests).memory_max_entities + settings(manifests).memory_max_decisions
    assert held * 2_000 + 300e6 <= int(limit.removesuffix("Gi")) * 2**30
