import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.api.admission import Admission
from service.api.guard import Guard
from service.api.problems import Problems
from service.api.thresholds import Publication, router
from service.telemetry import Telemetry
from service.threshold_store import Source, ThresholdStore
from tests.thresholds.documents import Json, document, thresholds

NOW_MS = 1_795_253_400_000  # 2026-11-21T09:30:00Z
BUNDLED = document(default={"review_at": {"probability": 0.5}})
STRICTER = document(default={"review_at": {"probability": 0.25}})


@dataclass(frozen=True)
class Parts:
    """Of a running service, what these endpoints use."""

    thresholds: ThresholdStore
    now_ms: Callable[[], int]


def app_with(store: ThresholdStore) -> Guard:
    app = FastAPI()
    app.state.touchstone = Parts(thresholds=store, now_ms=lambda: NOW_MS)
    app.include_router(router)
    problems = Problems(Telemetry(CollectorRegistry()))
    problems.answer_for(app)
    admission = Admission(is_ready=lambda: True, keys=lambda: None, new_request_id=lambda: "request-1")
    return Guard(app, admission=admission, problems=problems)


@pytest.fixture
def serve() -> Iterator[Callable[[Path | None], httpx.Client]]:
    """Starts a server on a state file, each call a process's restart; gives a client for it."""
    stops: list[Callable[[], None]] = []

    def start(path: Path | None) -> httpx.Client:
        store = ThresholdStore(path, thresholds(BUNDLED), Source.BUNDLE)
        server = uvicorn.Server(uvicorn.Config(app_with(store), port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}")

        def stop() -> None:
            client.close()
            server.should_exit = True
            thread.join()

        stops.append(stop)
        return client

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "thresholds.jsonl"


def publication(source: object = STRICTER, **changes: object) -> Json:
    return {"document": source, "comment": "too much slipped through", "author": "a.analyst", **changes}


def put(client: httpx.Client, body: Json, if_match: str | None = "*") -> httpx.Response:
    return client.put("/thresholds", json=body, headers={} if if_match is None else {"If-Match": if_match})


def code_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


def test_the_thresholds_in_force_can_be_read(serve: Callable[[Path | None], httpx.Client], path: Path) -> None:
    """Before anything is published the bundle's document is shown, as version 0, with its entity tag."""
    response = serve(path).get("/thresholds")
    assert response.status_code == 200
    assert response.headers["etag"].startswith('"0-')
    assert response.json() == {
        "version": 0,
        "source": "bundle",
        "author": None,
        "comment": None,
        "published_at": None,
        "document": BUNDLED,
    }


@pytest.mark.parametrize("condition", ["{}", "W/{}", '"other", {}', "*"])
def test_who_has_the_version_in_force_is_not_sent_it_again(
    serve: Callable[[Path | None], httpx.Client], path: Path, condition: str
) -> None:
    """If-None-Match with the tag in force gives 304 without a body, however proxies have written it."""
    client = serve(path)
    etag = client.get("/thresholds").headers["etag"]
    response = client.get("/thresholds", headers={"If-None-Match": condition.format(etag)})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag
    assert client.get("/thresholds", headers={"If-None-Match": '"other"'}).status_code == 200


def test_publishing_puts_a_version_in_force_that_outlasts_a_restart(
    serve: Callable[[Path | None], httpx.Client], path: Path
) -> None:
    """What PUT answers is what GET answers from then on, in this process and the next."""
    client = serve(path)
    response = put(client, publication(), client.get("/thresholds").headers["etag"])
    assert response.status_code == 200
    assert response.json() == {
        "version": 1,
        "source": "published",
        "author": "a.analyst",
        "comment": "too much slipped through",
        "published_at": "2026-11-21T09:30:00Z",
        "document": STRICTER,
    }
    for reader in (client, serve(path)):
        read = reader.get("/thresholds")
        assert (read.headers["etag"], read.json()) == (response.headers["etag"], response.json())


def test_publishing_needs_the_version_that_was_changed(
    serve: Callable[[Path | None], httpx.Client], path: Path
) -> None:
    """Without If-Match nothing is published: 428."""
    client = serve(path)
    assert code_of(put(client, publication(), if_match=None)) == (428, "version_needed")
    assert client.get("/thresholds").json()["version"] == 0


def test_the_loser_of_a_race_is_refused(serve: Callable[[Path | None], httpx.Client], path: Path) -> None:
    """A tag that was in force when it was read, and no longer is, does not publish: 412."""
    client = serve(path)
    read = client.get("/thresholds").headers["etag"]
    assert put(client, publication(), read).status_code == 200
    assert code_of(put(client, publication(BUNDLED), read)) == (412, "version_conflict")
    assert client.get("/thresholds").json()["document"] == STRICTER


@pytest.mark.parametrize("condition", ["W/{}", "{}x", '"0"', ""])
def test_only_the_exact_tag_publishes(serve: Callable[[Path | None], httpx.Client], path: Path, condition: str) -> None:
    """If-Match compares strongly (RFC 9110, 13.1.1): what merely resembles the tag in force gives 412."""
    client = serve(path)
    etag = client.get("/thresholds").headers["etag"]
    assert code_of(put(client, publication(), condition.format(etag))) == (412, "version_conflict")
    assert client.get("/thresholds").json()["version"] == 0


def test_every_fault_of_a_document_is_listed(serve: Callable[[Path | None], httpx.Client], path: Path) -> None:
    """422 lists all faults, each with its JSON pointer and what was expected."""
    client = serve(path)
    faulty = document(
        default={"review_at": {"probability": 2}, "decline_at": {"expected_loss": "much"}},
        segments=[{"name": "s", "when": {"channel": ["shop"]}}],
    )
    response = put(client, publication(faulty))
    assert code_of(response) == (422, "thresholds_invalid")
    assert response.json()["errors"] == [
        {"field": "/default/review_at/probability", "reason": "less than or equal to 1"},
        {"field": "/default/decline_at/expected_loss", "reason": "a valid integer"},
        {"field": "/segments/0/when/channel/0", "reason": "'ecommerce', 'pos', 'atm', 'moto' or 'recurring'"},
    ]
    assert client.get("/thresholds").json()["version"] == 0


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (publication(comment=" "), ["comment"]),
        (publication(author=""), ["author"]),
        (publication(comment="x" * 1001, author=7), ["comment", "author"]),
        ({"document": STRICTER}, ["comment", "author"]),
        (publication(number=5), ["number"]),
        ({"comment": "c", "author": "a"}, ["document"]),
    ],
)
def test_who_and_why_are_required(
    serve: Callable[[Path | None], httpx.Client], path: Path, body: Json, fields: list[str]
) -> None:
    """A publication names its author and reason, and nothing that is not asked for."""
    response = put(serve(path), body)
    assert code_of(response) == (422, "invalid_request")
    assert [error["field"] for error in response.json()["errors"]] == fields


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"comment": "a", "comment": "b"}',
        b'{"document": {"default": {"review_at": {}, "review_at": {}}}}',
        b'{"document": NaN}',
    ],
    ids=["cut off", "a key twice", "a key twice within the document", "NaN"],
)
def test_a_body_with_the_traps_of_json_is_refused(
    serve: Callable[[Path | None], httpx.Client], path: Path, body: bytes
) -> None:
    """A repeated key would silently lose a bound, so it is refused like any other broken JSON."""
    headers = {"If-Match": "*", "Content-Type": "application/json"}
    assert code_of(serve(path).put("/thresholds", content=body, headers=headers)) == (422, "invalid_json")


def test_where_nothing_can_be_kept_nothing_is_published(serve: Callable[[Path | None], httpx.Client]) -> None:
    """Without a state directory publishing gives 503, and the thresholds in force go on."""
    client = serve(None)
    assert code_of(put(client, publication())) == (503, "not_writable")
    assert client.get("/thresholds").json()["document"] == BUNDLED


def test_the_example_in_the_documentation_runs(serve: Callable[[Path | None], httpx.Client], path: Path) -> None:
    """Who presses the button in the API's documentation publishes a version."""
    schema = Publication.model_json_schema()
    example = {name: field["examples"][0] for name, field in schema["properties"].items() if "examples" in field}
    example["document"] = schema["$defs"]["ThresholdsDocument"]["example"]
    response = put(serve(path), example)
    assert (response.status_code, response.json()["document"]) == (200, example["document"])
