"""What the README shows is what happens, with the bundle that ships."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from tests.serving import Service, serving
from training.__main__ import app

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service as `make run` starts it: default settings, the shipped bundle."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"))
    with serving(settings, lambda: time.time_ns() // 1_000_000) as service:
        yield service


def example() -> dict[str, object]:
    """The body of the README's curl."""
    [body] = re.findall(r"curl -s http://127\.0\.0\.1:8000/score .*? -d '(\{.*?\})'", README, re.DOTALL)
    document: dict[str, object] = json.loads(body)
    return document


def test_the_example_gets_a_decision_and_its_retry_the_same_bytes(shipped: Service) -> None:
    """A decision with a probability; again the same bytes, marked; with another amount a conflict."""
    body = example()
    first, again = (shipped.client.post("/score", content=json.dumps(body), headers=JSON) for _ in range(2))
    assert first.status_code == again.status_code == 200
    assert first.json()["decision"] in {"approve", "challenge", "review", "decline"}
    assert 0 < first.json()["probability"] < 1
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    other = shipped.client.post("/score", content=json.dumps(body | {"amount": 1}), headers=JSON)
    assert other.status_code == 409


def test_every_endpoint_of_the_table_exists(shipped: Service) -> None:
    """Method and path of each row are in the OpenAPI document or answer by themselves."""
    described = shipped.client.get("/openapi.json").json()["paths"]
    rows = re.findall(r"^\| (`[A-Z].*?`) \|", README, re.MULTILINE)
    assert len(rows) >= 7
    for row in rows:
        methods = re.findall(r"\b(GET|PUT|POST)\b", row)
        for path in re.findall(r"/[a-z_/{}]+", row):
            for method in methods:
                assert method.lower() in described[path], (method, path)


def test_every_page_it_links_to_is_there() -> None:
    """Relative links lead to files of the project."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) > 10
    assert [link for link in links if not (Path(__file__).parent.parent / link).exists()] == []


def test_the_commands_it_names_exist() -> None:
    """Each `make` target stands in the Makefile, each `python -m training` command is one."""
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"run", "test", "check", "bench", "train", "demo"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    commands = set(re.findall(r"python -m training ([a-z]+)", README))
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert {"simulate", "fit", "evaluate", "replay"} <= commands <= known
