"""k8s/base as kubectl renders it, against Kubernetes' own schemas and against what the service is."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic import JsonValue

from service.app import create_app
from service.server import DRAIN_SECONDS
from service.settings import Settings, read_settings
from service.stores.fallback import MAX_DEFERRED_APPENDS, MAX_KEPT_DECISIONS
from service.supervisor import MOST_DRAIN_SECONDS
from service.telemetry import Telemetry

PROJECT = Path(__file__).resolve().parents[2]
HAND_OVER_S = 30  # what a process may hold takes 20 at the rate measured in docs/benchmarks.md
VERSIONS = ("1.30", "1.34", kubernetes_validate.latest_version())  # preStop's sleep came with 1.30
TOUCHSTONE, REDIS = "Deployment/touchstone", "StatefulSet/touchstone-redis"
KINDS_OF_VOLUMES = {"emptyDir", "configMap"}  # of those that the standard "restricted" allows, what we need

Mapping = dict[str, JsonValue]
Manifests = dict[str, Mapping]

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed, so the manifests cannot be rendered"
)


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    """The rendered base."""
    return rendered(PROJECT / "k8s" / "base")


def rendered(directory: Path) -> Manifests:
    """Manifests by kind and name, without the hash that kustomize appends to generated ones."""
    text = subprocess.run(  # noqa: S603 - our own directory
        ["kubectl", "kustomize", str(directory)],  # noqa: S607 - whichever kubectl is installed
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    documents = list(yaml.safe_load_all(text))
    found = {f"{document['kind']}/{plain_name(document)}": document for document in documents}
    assert len(found) == len(documents)
    return found


def plain_name(document: Mapping) -> str:
    name = cast("str", at(document, "metadata", "name"))
    return re.sub(r"-[a-z0-9]{10}$", "", name) if document["kind"] == "ConfigMap" else name


def at(value: JsonValue, *path: str | int) -> JsonValue:
    """The part of a manifest that a path of keys and indexes leads to."""
    for step in path:
        value = cast("Mapping", value)[step] if isinstance(step, str) else cast("list[JsonValue]", value)[step]
    return value


def pod(manifests: Manifests, workload: str = TOUCHSTONE) -> Mapping:
    return cast("Mapping", at(manifests[workload], "spec", "template", "spec"))


def container(manifests: Manifests, workload: str = TOUCHSTONE) -> Mapping:
    return cast("Mapping", at(pod(manifests, workload), "containers", 0))


def labels(manifests: Manifests, workload: str) -> JsonValue:
    return at(manifests[workload], "spec", "template", "metadata", "labels")


def variables(manifests: Manifests, workload: str) -> dict[str, Mapping]:
    """What a container's environment says by itself, by name and in its order."""
    return {cast("str", entry["name"]): entry for entry in cast("list[Mapping]", container(manifests, workload)["env"])}


def settings(manifests: Manifests) -> Settings:
    """What the pod's process reads; a variable that is no setting is refused here as it is there."""
    environ = cast("dict[str, str]", manifests["ConfigMap/touchstone-settings"]["data"])
    own = {name: cast("str", entry.get("value", "-")) for name, entry in variables(manifests, TOUCHSTONE).items()}
    return read_settings({}, environ | own, None)


def mebibytes(quantity: JsonValue) -> int:
    """A quantity of memory or disk."""
    found = re.fullmatch(r"([0-9]+)(Mi|Gi)", cast("str", quantity))
    assert found is not None, quantity
    return int(found[1]) * {"Mi": 1, "Gi": 1024}[found[2]]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_manifest(manifests: Manifests, version: str) -> None:
    """Nothing is misspelt or misplaced, in the oldest version we name and in the newest."""
    assert set(manifests) == {
        TOUCHSTONE,
        REDIS,
        "ConfigMap/touchstone-settings",
        "ConfigMap/touchstone-redis",
        "NetworkPolicy/touchstone-redis",
        "Service/touchstone",
        "Service/touchstone-redis",
    }
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_settings_are_ones_the_service_takes_and_the_pod_gets_them(manifests: Manifests) -> None:
    """A setting the service does not know would keep every pod from starting."""
    assert settings(manifests).host == "0.0.0.0"  # noqa: S104 - a pod has its own network
    name = at(manifests["ConfigMap/touchstone-settings"], "metadata", "name")
    assert at(container(manifests), "envFrom") == [{"configMapRef": {"name": name}}]
    assert pod(manifests)["enableServiceLinks"] is False


@pytest.mark.parametrize(("workload", "service"), [(TOUCHSTONE, "touchstone"), (REDIS, "touchstone-redis")])
def test_everything_selects_its_pod_alone(manifests: Manifests, workload: str, service: str) -> None:
    """A workload and its Service find the pods that its template makes, and no others."""
    assert at(manifests[workload], "spec", "selector", "matchLabels") == labels(manifests, workload)
    assert at(manifests[f"Service/{service}"], "spec", "selector") == labels(manifests, workload)
    assert labels(manifests, TOUCHSTONE) != labels(manifests, REDIS)


def test_every_port_is_the_one_the_service_listens_on(manifests: Manifests) -> None:
    """Service, container, probes and Prometheus' annotations lead to TOUCHSTONE_PORT."""
    port = settings(manifests).port
    assert at(container(manifests), "ports") == [{"name": "http", "containerPort": port, "protocol": "TCP"}]
    assert at(manifests["Service/touchstone"], "spec", "ports", 0, "targetPort") == "http"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert at(container(manifests), probe, "httpGet", "port") == "http"
    annotations = at(manifests[TOUCHSTONE], "spec", "template", "metadata", "annotations")
    assert at(annotations, "prometheus.io/port") == str(port)


def test_the_store_s_url_leads_to_redis_with_the_password_of_the_secret(manifests: Manifests) -> None:
    """Host and port are those of Redis' Service and container; both sides read one key of one Secret, made by hand."""
    service = manifests["Service/touchstone-redis"]
    host, port = at(service, "metadata", "name"), at(service, "spec", "ports", 0, "port")
    assert settings(manifests).store_url == f"redis://:$(REDIS_PASSWORD)@{host}:{port}/0"
    assert at(service, "spec", "ports", 0, "targetPort") == "redis"
    assert at(container(manifests, REDIS), "ports") == [{"name": "redis", "containerPort": port, "protocol": "TCP"}]
    assert at(manifests[REDIS], "spec", "serviceName") == host

    theirs, ours = variables(manifests, REDIS), variables(manifests, TOUCHSTONE)
    assert theirs["REDISCLI_AUTH"]["valueFrom"] == ours["REDIS_PASSWORD"]["valueFrom"]
    assert list(ours) == ["REDIS_PASSWORD", "TOUCHSTONE_STORE_URL"]  # a variable can name those before it
    secret = cast("Mapping", at(ours["REDIS_PASSWORD"], "valueFrom", "secretKeyRef"))
    command = f"kubectl create secret generic {secret['name']} --from-literal={secret['key']}="
    for page in ("k8s/base/kustomization.yaml", "docs/operations.md"):
        assert command in (PROJECT / page).read_text(encoding="utf-8")


def test_only_touchstone_reaches_redis(manifests: Manifests) -> None:
    """The network policy is about Redis' pods, lets Touchstone's in at Redis' port, and nothing out."""
    policy = at(manifests["NetworkPolicy/touchstone-redis"], "spec")
    assert policy == {
        "podSelector": {"matchLabels": labels(manifests, REDIS)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": labels(manifests, TOUCHSTONE)}}],
                "ports": [{"port": "redis", "protocol": "TCP"}],
            }
        ],
    }


def test_redis_starts_as_under_compose(manifests: Manifests) -> None:
    """The same image, command line and file of options, which tests/deploy/test_redis.py runs."""
    composed = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["redis"]
    redis = container(manifests, REDIS)
    assert redis["image"] == composed["image"]
    assert redis["command"] == [word.replace("$$", "$") for word in composed["command"]]
    config = manifests["ConfigMap/touchstone-redis"]
    assert config["data"] == {"redis.conf": (PROJECT / "k8s/base/redis.conf").read_text(encoding="utf-8")}
    assert at(pod(manifests, REDIS), "volumes") == [
        {"name": "settings", "configMap": {"name": at(config, "metadata", "name")}}
    ]
    assert at(manifests[REDIS], "spec", "volumeClaimTemplates", 0, "metadata", "name") == "histories"
    mounts = {mount["name"]: mount["mountPath"] for mount in cast("list[Mapping]", redis["volumeMounts"])}
    assert mounts == {"settings": "/etc/redis", "histories": "/data"}


def test_redis_has_the_room_that_its_options_promise(manifests: Manifests) -> None:
    """Rewriting the append-only file can take the memory twice, and the disk thrice."""
    options = cast("Mapping", manifests["ConfigMap/touchstone-redis"]["data"])["redis.conf"]
    found = re.search(r"^maxmemory ([0-9]+)gb$", cast("str", options), flags=re.MULTILINE)
    assert found is not None
    resources = at(container(manifests, REDIS), "resources")
    assert at(resources, "requests", "memory") == at(resources, "limits", "memory")
    assert mebibytes(at(resources, "limits", "memory")) >= 2 * 1024 * int(found[1])
    storage = at(manifests[REDIS], "spec", "volumeClaimTemplates", 0, "spec", "resources", "requests", "storage")
    assert mebibytes(storage) >= 4 * 1024 * int(found[1])


def test_probes_and_scrapes_ask_for_what_the_service_answers(manifests: Manifests) -> None:
    """Live is asked of live and ready of ready, and each path exists."""
    paths = {probe: at(container(manifests), f"{probe}Probe", "httpGet", "path") for probe in ("startup", "readiness")}
    assert set(paths.values()) == {"/health/ready"}
    assert at(container(manifests), "livenessProbe", "httpGet", "path") == "/health/live"
    metrics = at(manifests[TOUCHSTONE], "spec", "template", "metadata", "annotations", "prometheus.io/path")
    known = create_app(Telemetry(CollectorRegistry())).openapi()["paths"]
    assert {"/health/ready", "/health/live", metrics} <= known.keys()


@pytest.mark.parametrize("workload", [TOUCHSTONE, REDIS])
def test_the_pod_is_restricted(manifests: Manifests, workload: str) -> None:
    """Pod Security Standards, profile "restricted", and a root file system that cannot be written."""
    assert at(pod(manifests, workload), "securityContext", "runAsNonRoot") is True
    assert at(pod(manifests, workload), "securityContext", "seccompProfile", "type") == "RuntimeDefault"
    assert container(manifests, workload)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = cast("list[Mapping]", pod(manifests, workload)["volumes"])
    assert all(volume.keys() - {"name"} <= KINDS_OF_VOLUMES for volume in volumes)
    assert len(cast("list[JsonValue]", pod(manifests, workload)["containers"])) == 1
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod(manifests, workload).keys()
    assert pod(manifests, workload)["automountServiceAccountToken"] is False


def test_the_pod_runs_as_the_image_s_user(manifests: Manifests) -> None:
    """Files of the image belong to whom it was built for."""
    dockerfile = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    context = at(pod(manifests), "securityContext")
    assert f"USER {at(context, 'runAsUser')}:{at(context, 'runAsGroup')}\n" in dockerfile


def test_published_thresholds_can_be_written(manifests: Manifests) -> None:
    """The state directory is a volume; the rest of the root file system is not."""
    mounts = {at(mount, "mountPath") for mount in cast("list[JsonValue]", container(manifests)["volumeMounts"])}
    assert str(settings(manifests).state_dir) in mounts


def test_a_pod_is_given_time_to_drain(manifests: Manifests) -> None:
    """The preStop pause, draining and handing over what waits fit into the grace period: nothing is cut off."""
    grace, pause = (
        pod(manifests)["terminationGracePeriodSeconds"],
        at(container(manifests), "lifecycle", "preStop", "sleep", "seconds"),
    )
    assert isinstance(grace, int)
    assert isinstance(pause, int)
    assert pause + MOST_DRAIN_SECONDS < grace
    assert DRAIN_SECONDS + HAND_OVER_S <= MOST_DRAIN_SECONDS


def test_memory_fits_what_may_wait_for_redis(manifests: Manifests) -> None:
    """The process, and all that it keeps while Redis is away, stay below the limit; both as measured."""
    limit = at(container(manifests), "resources", "limits", "memory")
    assert limit == at(container(manifests), "resources", "requests", "memory")
    assert mebibytes(limit) * 2**20 >= 240e6 + (MAX_DEFERRED_APPENDS + MAX_KEPT_DECISIONS) * 1_200


def test_several_pods_get_one_set_of_thresholds(tmp_path: Path) -> None:
    """The overlay that the page shows gives every pod the file, where none of them can publish others."""
    page = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(resources:.*?)```", page, flags=re.DOTALL)
    assert found is not None
    overlay, base = tmp_path / "overlay", tmp_path / "k8s" / "base"
    overlay.mkdir()
    shutil.copytree(PROJECT / "k8s" / "base", base)
    (overlay / "kustomization.yaml").write_text(found[1], encoding="utf-8")
    (overlay / "thresholds.json").write_text("{}", encoding="utf-8")
    several = rendered(overlay)
    assert at(several[TOUCHSTONE], "spec", "replicas") != 1
    file = settings(several).thresholds_file
    assert file is not None
    assert file.parent == settings(several).state_dir
    assert list(cast("Mapping", several["ConfigMap/touchstone-thresholds"]["data"])) == [file.name]
    volumes = {volume["name"]: volume for volume in cast("list[Mapping]", pod(several)["volumes"])}
    name = at(several["ConfigMap/touchstone-thresholds"], "metadata", "name")
    assert volumes["state"] == {"name": "state", "configMap": {"name": name}}
