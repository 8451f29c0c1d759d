"""The peers answer what the network answers, and leave nothing behind."""

import json
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from benchmarks.connection import Connection
from benchmarks.load.contender import Contender, Payment
from benchmarks.load.places import Places
from benchmarks.load.processes import family, members_of_session
from benchmarks.load.running import launched
from benchmarks.peers import contenders, protocols, roster
from benchmarks.serving import PROJECT, Address, free_port
from service.app import bundle_directory
from service.bundle import Bundle
from service.settings import SHIPPED_MODELS

ANYWHERE = Places(None, (), None)
ROWS = 16
TOLERANCE = 1e-5
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped one, with rows whose probabilities are known."""
    return Bundle.load(bundle_directory(SHIPPED_MODELS))


@pytest.fixture(scope="module")
def payments(bundle: Bundle) -> list[Payment]:
    """Those rows, some of whose numbers are missing."""
    rows = zip(bundle.golden.numeric[:ROWS].tolist(), bundle.golden.categorical[:ROWS].tolist(), strict=True)
    found = [Payment(b"", [None if np.isnan(x) else x for x in numeric], codes) for numeric, codes in rows]
    assert any(None in payment.numeric for payment in found)
    return found


@pytest.mark.long
@pytest.mark.parametrize("peer", contenders(), ids=lambda peer: peer.name)
def test_a_peer_answers_as_the_network_does_and_ends_when_told(
    peer: Contender, bundle: Bundle, payments: list[Payment], tmp_path: Path
) -> None:
    """It serves the same network, missing numbers included; after SIGTERM none of its processes is left."""
    if peer.missing:
        pytest.skip(f"{peer.name}: {peer.missing}")
    port = free_port()
    with launched(peer, port, None, ANYWHERE, log=tmp_path / "log") as process:
        with Connection(Address("127.0.0.1", port)) as connection:
            replies = [connection.exchange(peer.request(payment)) for payment in payments]
        assert {reply.status for reply in replies} == {200}
        assert peer.probability_in is not None
        answered = [peer.probability_in(reply.body) for reply in replies]
        assert np.allclose(answered, bundle.golden.probability[:ROWS], rtol=0, atol=TOLERANCE)
        started = family(process.pid)
        process.terminate()
        process.wait(PATIENCE_S)
        deadline_s = time.monotonic() + PATIENCE_S
        while remain := {pid for pid in started if Path(f"/proc/{pid}").exists()} | {*members_of_session(process.pid)}:
            assert time.monotonic() < deadline_s, remain
            time.sleep(0.05)


def test_a_peer_that_is_not_installed_says_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the benchmark learns why a row is missing and what to do about it."""
    monkeypatch.setattr(roster, "ENVIRONMENTS", tmp_path)
    assert [peer.missing for peer in contenders()] == ["not installed; `make bench-peers` installs it"] * 6


def test_all_peers_serve_the_same_file(tmp_path: Path) -> None:
    """The shipped network, or another one for all of them."""
    shipped = bundle_directory(SHIPPED_MODELS) / "model.onnx"
    assert {peer.environment["PEER_MODEL"] for peer in contenders()} == {str(shipped)}
    assert {peer.environment["PEER_MODEL"] for peer in contenders(tmp_path)} == {str(tmp_path)}


def test_all_peers_have_the_onnxruntime_that_we_have() -> None:
    """What is compared is what is around it."""
    targets = [f"build/peers/{peer}/.installed" for peer in ("triton", "kserve", "mlserver", "bentoml")]
    plan = subprocess.run(  # noqa: S603 - fixed words
        ["make", "--dry-run", "--always-make", *targets],  # noqa: S607 - whichever make is installed
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert re.findall(r"onnxruntime==\S+", plan) == [f"onnxruntime=={version('onnxruntime')}"] * len(targets)


def test_a_row_in_json_is_the_row_to_the_last_bit(payments: list[Payment]) -> None:
    """No peer is sent other numbers than ours: the shortest decimals are the same float32, null is what is missing."""
    for payment in payments:
        (instance,) = json.loads(body_of(protocols.v1_request(payment)))["instances"]
        numeric, categorical = json.loads(body_of(protocols.v2_request(payment)))["inputs"]
        keywords = json.loads(body_of(protocols.keywords_request(payment)))
        for row in (instance["numeric"], numeric["data"], keywords["numeric"][0]):
            assert np.array_equal(np.array(row, np.float32), np.array(payment.numeric, np.float32), equal_nan=True)
        for codes in (instance["categorical"], categorical["data"], keywords["categorical"][0]):
            assert codes == payment.categorical


def test_a_row_in_binary_is_the_row_to_the_last_bit(payments: list[Payment]) -> None:
    """Behind the JSON, whose length a header states, stand the two tensors whose sizes the JSON states."""
    for payment in payments:
        request = protocols.v2_binary_request(payment)
        body = body_of(request)
        length = int(request.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0])
        sizes = [tensor["parameters"]["binary_data_size"] for tensor in json.loads(body[:length])["inputs"]]
        assert len(body) == length + sum(sizes)
        numeric = np.frombuffer(body[length:][: sizes[0]], "<f4")
        assert np.array_equal(numeric, np.array(payment.numeric, np.float32), equal_nan=True)
        assert np.frombuffer(body[length + sizes[0] :], "<i8").tolist() == payment.categorical


def body_of(request: bytes) -> bytes:
    """Of an HTTP request, whose head must state its length."""
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    return body
