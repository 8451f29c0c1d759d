"""API keys: who may send requests, and that no key or digest is ever shown."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from traceback import format_exception

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import SettingsInvalid
from service.logs import configure_logging
from service.security import ApiKeys
from service.settings import Settings
from tests.api.test_score import problem, transaction
from tests.conftest import ARRIVAL_MS
from tests.serving import Service, serving

KEY = "lettersofthecheckout"
OTHER = "k3y-of-the-backoffice"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
OPEN = {"/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"}


def client(name: object = "checkout", sha256: object = DIGEST, **more: object) -> dict[str, object]:
    return {"name": name, "sha256": sha256, **more}


def load(directory: Path, content: object) -> ApiKeys:
    path = directory / "keys.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return ApiKeys.load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "JSON"),
        (b"\xff", "JSON"),
        (KEY.encode(), "JSON"),
        (f'{{"clients": [{{"name": "checkout", "sha256": "{DIGEST}"}}'.encode(), "JSON"),
        ([client()], "an object"),
        ({}, "clients: required"),
        ({"clients": []}, "clients: a list of at least 1"),
        ({"clients": {"checkout": DIGEST}}, "clients: "),
        ({"clients": [DIGEST]}, "clients.0: an object"),
        ({"clients": [client(), client(sha256=None)]}, "clients.1.sha256: "),
        ({"clients": [client(sha256=KEY)]}, "clients.0.sha256: "),
        ({"clients": [client(sha256=DIGEST[:-1])]}, "clients.0.sha256: "),
        ({"clients": [client(sha256=DIGEST + "0")]}, "clients.0.sha256: "),
        ({"clients": [client(sha256=DIGEST + "\n")]}, "clients.0.sha256: "),
        ({"clients": [client(sha256="g" + DIGEST[1:])]}, "clients.0.sha256: "),
        ({"clients": [client(sha256=int(DIGEST[:15], 16))]}, "clients.0.sha256: "),
        ({"clients": [client(name=KEY + "!")]}, "clients.0.name: "),
        ({"clients": [client(name="")]}, "clients.0.name: "),
        ({"clients": [client(name="x" * 65)]}, "clients.0.name: "),
        ({"clients": [client(key=KEY)]}, "clients.0."),
        ({"clients": [client(**{KEY: 1})]}, "clients.0."),
        ({"clients": [client(**{DIGEST: 1})]}, "clients.0."),
        ({"clients": [client()], DIGEST: "checkout"}, "unknown"),
        ({"clients": [client(), client("other")]}, "twice"),
        ({"clients": [client(), client("other", DIGEST.upper())]}, "twice"),
        ({"clients": [client(sha256=hashlib.sha256(b"").hexdigest())]}, "empty"),
    ],
)
def test_a_fault_of_the_file_is_named_without_what_stands_there(tmp_path: Path, content: object, said: str) -> None:
    """Whoever reads the message learns the place and what was expected, but no key and no digest."""
    with pytest.raises(SettingsInvalid) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    traceback = "".join(format_exception(caught.value)).lower()
    assert message.startswith(f"TOUCHSTONE_API_KEYS_FILE {tmp_path}/keys.json: ")
    assert said in message
    assert KEY not in traceback
    assert DIGEST[:15] not in traceback


@pytest.mark.parametrize("path", ["nowhere.json", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    """The service does not start open to everybody because its keys are not there."""
    with pytest.raises(SettingsInvalid, match=f"TOUCHSTONE_API_KEYS_FILE {tmp_path / path}: "):
        ApiKeys.load(tmp_path / path)


@pytest.mark.parametrize(
    ("authorization", "found"),
    [
        (f"Bearer {KEY}", "checkout"),
        (f"bearer {KEY}", "checkout"),
        (f"BEARER  {KEY} ", "checkout"),
        (f"Bearer {OTHER}", "checkout"),  # a second key, while the first is being replaced
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        (KEY, None),
        (f" {KEY}", None),
        (f"Basic {KEY}", None),
        (f"Bearer {KEY} {KEY}", None),
        (f"Bearer {KEY[:-1]}", None),
        (f"Bearer {KEY.upper()}", None),
        (f"Bearer {DIGEST}", None),
        ("Bearer é", None),
    ],
)
def test_a_client_is_known_by_its_key(tmp_path: Path, authorization: str | None, found: str | None) -> None:
    """The scheme's case and blanks around the key do not matter; everything else does."""
    digest = hashlib.sha256(OTHER.encode()).hexdigest().upper()
    keys = load(tmp_path, {"clients": [client(), client(sha256=digest)]})
    assert keys.client_of(None if authorization is None else authorization.encode()) == found


@given(st.binary() | st.binary().map(lambda key: b"Bearer " + key))
def test_no_other_bytes_are_a_key(authorization: bytes) -> None:
    """Whatever a header holds, it is compared, and nothing else happens."""
    assert ApiKeys({hashlib.sha256(KEY.encode()).digest(): "checkout"}).client_of(authorization) is None


@pytest.fixture(scope="module", params=["auto", "off"], ids=["lane", "asgi"])
def guarded(
    request: pytest.FixtureRequest, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A server that two clients may use."""
    directory = tmp_path_factory.mktemp("guarded")
    keys = directory / "keys.json"
    others = client("backoffice", hashlib.sha256(OTHER.encode()).hexdigest())
    keys.write_text(json.dumps({"clients": [client(), others]}))
    settings = Settings(
        model_dir=small_bundle, state_dir=directory / "state", api_keys_file=keys, fast_lane=request.param
    )
    with serving(settings, lambda: ARRIVAL_MS) as started:
        yield started


def operations(service: Service) -> list[tuple[str, str]]:
    """Every method and path that is described, and one that is not."""
    document = service.client.get("/openapi.json").json()
    described = [
        (method.upper(), path.replace("{transaction_id}", "none"))
        for path, methods in document["paths"].items()
        for method in methods
    ]
    return [*described, ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nothing"), ("PUT", "/score")]


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", f"Basic {KEY}", KEY, "Bearer \xe9"])
def test_without_a_key_nothing_but_its_condition_is_told(guarded: Service, authorization: str | None) -> None:
    """Every endpoint, and what is none, asks for a key; health, metrics and documentation do not."""
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    asked = operations(guarded)
    assert {path for _, path in asked} > OPEN | {"/score", "/score/batch", "/outcomes", "/thresholds", "/models"}
    for method, path in asked:
        response = guarded.client.request(method, path, headers=headers)
        if path in OPEN:
            assert response.status_code == 200, (method, path)
        else:
            assert response.status_code == 401, (method, path)
            assert problem(response).code == "unauthenticated"
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_with_a_key_every_endpoint_answers(guarded: Service, new_id: Callable[[str], str], key: str) -> None:
    """Each client is let through, to errors of its own too."""
    headers = {"authorization": f"Bearer {key}"}
    for method, path in operations(guarded):
        assert guarded.client.request(method, path, headers=headers).status_code != 401, (method, path)
    sent = transaction(new_id)
    assert guarded.client.post("/score", json=sent, headers=headers).status_code == 200
    assert guarded.client.get(f"/decisions/{sent['transaction_id']}", headers=headers).status_code == 200


def test_a_refused_request_leaves_no_trace(guarded: Service, new_id: Callable[[str], str]) -> None:
    """It is neither decided nor counted, and its id stays free."""
    sent = transaction(new_id)
    before = guarded.metric("fraud_problems_total", code="unauthenticated")
    assert guarded.client.post("/score", json=sent).status_code == 401
    assert guarded.client.post("/score", content=b" " * (3 << 20)).status_code == 401  # unread
    assert guarded.metric("fraud_problems_total", code="unauthenticated") == before + 2
    response = guarded.client.post("/score", json=sent, headers={"authorization": f"Bearer {KEY}"})
    assert "idempotent-replayed" not in response.headers


def test_keys_are_in_no_answer_and_in_no_log(
    guarded: Service, new_id: Callable[[str], str], log_stream: StringIO
) -> None:
    """Whether they are right or wrong, and even if answering goes wrong, at the most talkative level."""

    def fail() -> int:
        raise ZeroDivisionError

    configure_logging("debug", log_stream)
    wrong = "k3y-that-is-mistyped"
    answers: list[httpx.Response] = []
    for key in (KEY, wrong):
        headers = {"authorization": f"Bearer {key}"}
        answers += [guarded.client.request(method, path, headers=headers) for method, path in operations(guarded)]
        answers.append(guarded.client.post("/score", json=transaction(new_id), headers=headers))
        with guarded.using(replace(guarded.running, now_ms=fail)):
            answers.append(guarded.client.post("/score", json=transaction(new_id), headers=headers))
    shown = log_stream.getvalue() + "".join(f"{answer.headers}{answer.text}" for answer in answers)
    assert "ZeroDivisionError" in log_stream.getvalue()
    for secret in (KEY, wrong, DIGEST, OTHER):
        assert secret not in shown
