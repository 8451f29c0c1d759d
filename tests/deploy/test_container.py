"""The image and docker-compose.yml, as far as they can be read without an engine."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic import JsonValue

from service.app import create_app
from service.settings import read_settings
from service.telemetry import Telemetry

PROJECT = Path(__file__).resolve().parents[2]

Mapping = dict[str, JsonValue]


def dockerfile() -> str:
    """Its instructions, continued lines joined."""
    lines = (PROJECT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def image_settings() -> dict[str, str]:
    return dict(re.findall(r"(TOUCHSTONE_[A-Z_]+)=(\S+)", dockerfile()))


def document(name: str) -> Mapping:
    return cast("Mapping", yaml.safe_load((PROJECT / name).read_text(encoding="utf-8")))


def compose() -> dict[str, Mapping]:
    return cast("dict[str, Mapping]", document("docker-compose.yml")["services"])


def test_the_image_sets_only_what_the_service_takes() -> None:
    """A variable that is no setting would keep every container from starting."""
    settings = read_settings({}, image_settings(), None)
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)  # noqa: S104 - a container has its own network
    assert f"EXPOSE {settings.port}" in dockerfile()
    assert f"VOLUME {settings.state_dir}" in dockerfile()


def test_the_image_runs_as_a_numbered_user_that_is_not_root() -> None:
    """Kubernetes can only check runAsNonRoot against a number."""
    users = re.findall(r"^USER (.+)$", dockerfile(), flags=re.MULTILINE)
    assert [re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", user) is not None for user in users] == [True]


def test_the_image_is_built_from_the_lock_alone() -> None:
    """What is in the image is what was tested: exact files, no training, no installer left behind."""
    installs = re.findall(r"pip (?:--python \S+ )?install (.+)$", dockerfile(), flags=re.MULTILINE)
    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    copied = set(re.findall(r"^COPY (?!--from)(\S+)", dockerfile(), flags=re.MULTILINE))
    assert copied == {"requirements/serve.txt", "models", "service", "LICENSE"}
    assert "venv --without-pip" in dockerfile()


def test_the_builder_is_sent_only_what_is_copied() -> None:
    """Virtual environments, data and secrets of a checkout never reach the engine."""
    rules = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [rule for rule in rules if not rule.startswith("#")]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        "!LICENSE",
        "!models",
        "!requirements/serve.txt",
        "!service",
    }


def test_composed_services_are_confined() -> None:
    """Read-only root, no capabilities, no way to gain any, and ports on this machine only."""
    for name, service in compose().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(str(port).startswith("127.0.0.1:") for port in cast("list[str]", service.get("ports", []))), name


def test_redis_is_reached_by_the_service_alone() -> None:
    """It publishes no port and stands in a network without a way out, which only the service shares."""
    assert "ports" not in compose()["redis"]
    assert document("docker-compose.yml")["networks"] == {"store": {"internal": True}}
    assert compose()["redis"]["networks"] == ["store"]
    assert [name for name, service in compose().items() if "store" in str(service.get("networks"))] == [
        "touchstone",
        "redis",
    ]


def test_the_composed_service_keeps_its_histories_in_redis() -> None:
    """It takes what it is told, with the password that Redis is given, and waits until Redis is healthy."""
    environment = cast("dict[str, str]", compose()["touchstone"]["environment"])
    password = cast("dict[str, str]", compose()["redis"]["environment"])["REDISCLI_AUTH"]
    settings = read_settings({}, image_settings() | environment, None)
    assert settings.store_url == f"redis://:{password}@redis:6379/0"
    assert re.fullmatch(r"\$\{REDIS_PASSWORD:-[a-z]+\}", password)
    assert compose()["touchstone"]["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_redis_is_given_twice_the_memory_that_it_may_fill() -> None:
    """Rewriting the append-only file can take it twice."""
    options = (PROJECT / "k8s/base/redis.conf").read_text(encoding="utf-8")
    held = re.search(r"^maxmemory ([0-9]+)gb$", options, flags=re.MULTILINE)
    limit = re.fullmatch(r"([0-9]+)g", cast("str", compose()["redis"]["mem_limit"]))
    assert held is not None
    assert limit is not None
    assert int(limit[1]) >= 2 * int(held[1])


def test_composed_state_outlives_the_container() -> None:
    """Published thresholds and histories lie on named volumes where they are kept."""
    volumes = cast("list[str]", compose()["touchstone"]["volumes"])
    assert f"state:{image_settings()['TOUCHSTONE_STATE_DIR']}" in volumes
    assert "histories:/data" in cast("list[str]", compose()["redis"]["volumes"])
    assert " --dir /data " in str(compose()["redis"]["command"])
    assert {"state", "histories"} <= cast("Mapping", document("docker-compose.yml")["volumes"]).keys()


def test_prometheus_asks_the_service_for_its_metrics() -> None:
    """The scraped host is the composed service, the port its own, and the path one that it answers."""
    jobs = {
        job["job_name"]: job for job in cast("list[Mapping]", document("monitoring/prometheus.yml")["scrape_configs"])
    }
    assert jobs["touchstone"]["static_configs"] == [{"targets": [f"touchstone:{image_settings()['TOUCHSTONE_PORT']}"]}]
    path = jobs["touchstone"].get("metrics_path", "/metrics")
    assert path in create_app(Telemetry(CollectorRegistry())).openapi()["paths"]
    assert "./monitoring/prometheus.yml:/etc/prometheus/prometheus.yml:ro" in cast(
        "list[str]", compose()["prometheus"]["volumes"]
    )


def test_compose_and_kubernetes_run_the_same_image() -> None:
    """One tag, wherever it is named."""
    image = cast("str", compose()["touchstone"]["image"])
    assert f"image: {image}\n" in (PROJECT / "k8s/base/deployment.yaml").read_text(encoding="utf-8")
    assert image in (PROJECT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed; it is Prometheus' own checker")
def test_prometheus_accepts_its_configuration() -> None:
    """Nothing in it is misspelt."""
    subprocess.run(
        ["promtool", "check", "config", "--syntax-only", "monitoring/prometheus.yml"],  # noqa: S607 - whichever is installed
        cwd=PROJECT,
        check=True,
    )
