"""Links to real servers: what is sent comes back in order, and what goes wrong is over soon."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import uvloop
from structlog.testing import capture_logs

from service.errors import SettingsInvalid, StoreUnavailable
from service.stores.link import Link, LinkState, dialler, server_name
from service.stores.wire import Refusal, command
from tests.stores.proxy import proxy
from tests.stores.servers import PATIENCE_S, Server, free_port, redis_binary, running

Run: TypeAlias = Callable[[Coroutine[None, None, None]], None]

SLOW_MS = 5000  # for tests that are about something else than time
QUICK_MS = 100  # for tests that wait for it


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test in an event loop of each kind that the service may have."""
    return uvloop.run if request.param == "uvloop" else asyncio.run


@asynccontextmanager
async def linked(url: str, timeout_ms: int = SLOW_MS) -> AsyncIterator[Link]:
    link = Link(dialler(url), name=server_name(url), timeout_ms=timeout_ms)
    try:
        await link.open()
        yield link
    finally:
        await link.close()


def echo(word: str) -> bytes:
    return command("ECHO", word)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


async def is_mended(link: Link, *, reconnects: int) -> None:
    """Wait until a link is up again, and see that it answers."""
    await until(lambda: link.state is LinkState.UP and link.counts.reconnects >= reconnects)
    assert await link.send(echo("back"), 1) == [b"back"]


def test_replies_come_back_to_who_asked_in_order(run: Run, redis_server: Server) -> None:
    """Each gets as many replies as it expects, of every kind, and an error is a reply too."""

    async def act() -> None:
        async with linked(redis_server.url) as link:
            several = link.send(b"".join([command("DEL", "none"), command("GET", "none"), command("NONSENSE")]), 3)
            nested = link.send(command("COMMAND", "GETKEYS", "GET", "a"), 1)
            echoed = [link.send(echo(str(number)), 1) for number in range(100)]
            number, nothing, refusal = await several or []
            assert (number, nothing) == (0, None)
            assert isinstance(refusal, Refusal)
            assert refusal.reason.startswith("ERR unknown command")
            assert await nested == [[b"a"]]
            assert [await waiting for waiting in echoed] == [[b"%d" % number] for number in range(100)]

    run(act())


def test_what_is_sent_in_one_turn_leaves_in_one_write(run: Run, redis_server: Server) -> None:
    """The server reads once for all that was asked at the same time."""

    async def act() -> None:
        async with linked(redis_server.url) as link:
            before = int(redis_server.information("stats", "total_reads_processed"))
            await asyncio.gather(*[link.send(echo("x"), 1) for _ in range(100)])
            reads = int(redis_server.information("stats", "total_reads_processed")) - before
            assert reads < 10  # of which the questions after it are most

    run(act())


def test_a_large_reply_arrives_whole(run: Run, redis_server: Server) -> None:
    """Replies may come in many pieces."""

    async def act() -> None:
        async with linked(redis_server.url) as link:
            assert await link.send(echo("x" * 5_000_000), 1) == [b"x" * 5_000_000]

    run(act())


def test_who_gives_up_waiting_disturbs_nobody(run: Run, redis_server: Server) -> None:
    """The reply to a cancelled request is not given to the next one."""

    async def act() -> None:
        async with linked(redis_server.url) as link:
            given_up, waiting = link.send(echo("one"), 1), link.send(echo("two"), 1)
            given_up.cancel()
            assert await waiting == [b"two"]

    run(act())


def test_a_late_reply_is_not_taken_for_the_next_one(run: Run, redis_server: Server) -> None:
    """Who was not answered in time gets None then; what was asked later still gets its own answer."""

    async def act() -> None:
        async with proxy(redis_server.port) as between, linked(between.url, QUICK_MS) as link:
            between.open.clear()
            assert await link.send(echo("late"), 1) is None
            assert link.counts.timeouts == 1
            between.open.set()
            assert await link.send(echo("next"), 1) == [b"next"]
            assert (link.state, link.counts.reconnects) == (LinkState.UP, 0)

    run(act())


def test_a_server_that_stays_silent_is_given_up_until_it_answers_again(run: Run, redis_server: Server) -> None:
    """After three timeouts in a row nobody waits any more; once it answers, all is as before."""

    async def act() -> None:
        async with proxy(redis_server.port) as between, linked(between.url, QUICK_MS) as link:
            between.open.clear()
            assert [await link.send(echo("x"), 1) for _ in range(3)] == [None, None, None]
            assert link.state is LinkState.DOWN
            sent = [link.send(echo("x"), 1) for _ in range(1000)]
            assert all(waiting.done() and waiting.result() is None for waiting in sent)
            assert (link.counts.timeouts, link.counts.unsent) == (3, 1000)
            between.open.set()
            await is_mended(link, reconnects=1)

    with capture_logs() as logged:
        run(act())
    assert [entry["event"] for entry in logged] == ["store_link_lost", "store_link_restored"]


def test_a_hiccup_does_not_cost_the_connection(run: Run, redis_server: Server) -> None:
    """Two silent flushes, then an answered one: the count begins anew."""

    async def act() -> None:
        async with proxy(redis_server.port) as between, linked(between.url, QUICK_MS) as link:
            for _ in range(2):
                between.open.clear()
                assert [await link.send(echo("x"), 1) for _ in range(2)] == [None, None]
                between.open.set()
                assert await link.send(echo("x"), 1) == [b"x"]
                await asyncio.sleep(2 * QUICK_MS / 1000)  # until it is judged
            assert (link.counts.timeouts, link.counts.reconnects) == (4, 0)

    run(act())


def test_a_lost_connection_answers_all_who_wait_and_is_made_again(run: Run, redis_server: Server) -> None:
    """Nobody waits for the timeout, and nothing is sent twice."""

    async def act() -> None:
        async with proxy(redis_server.port) as between, linked(between.url) as link:
            redis_server.ask("DEL", "count")
            between.swallowing = True
            waiting = [link.send(command("INCR", "count"), 1) for _ in range(10)]
            await until(lambda: redis_server.ask("GET", "count") == b"10")
            between.swallowing = False
            between.cut()
            assert await asyncio.wait_for(asyncio.gather(*waiting), SLOW_MS / 2000) == [None] * 10
            await is_mended(link, reconnects=1)
            assert redis_server.ask("GET", "count") == b"10"

    run(act())


def test_a_client_that_the_server_kills_comes_back(run: Run, redis_server: Server) -> None:
    """CLIENT KILL is a lost connection like any other."""

    async def act() -> None:
        async with linked(redis_server.url) as link:
            redis_server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await is_mended(link, reconnects=1)

    run(act())


def test_a_server_is_found_again_after_it_hung_or_died(run: Run) -> None:
    """Stopped and continued, or killed and started: the link mends itself, and makes no connections meanwhile."""

    async def act(server: Server) -> None:
        async with linked(server.url, QUICK_MS) as link:
            server.pause()
            await until(lambda: link.send(echo("x"), 1).done())  # which it is at once when the link is down
            server.resume()
            await is_mended(link, reconnects=1)
            server.kill()
            await until(lambda: link.state is LinkState.DOWN)
            server.start()
            await is_mended(link, reconnects=2)
            await asyncio.sleep(0.1)
            clients = server.ask("CLIENT", "LIST")
            assert isinstance(clients, bytes)
            assert clients.count(b"name=touchstone") == 1

    with running(redis_binary()) as server:
        run(act(server))


def test_too_much_in_flight_is_refused_at_once(run: Run, redis_server: Server) -> None:
    """What is under way is bounded, and once it is answered there is room again."""
    mebibyte = echo("x" * (1 << 20))

    async def act() -> None:
        async with proxy(redis_server.port) as between, linked(between.url) as link:
            between.open.clear()
            waiting = [link.send(mebibyte, 1) for _ in range(12)]
            assert [sent.done() for sent in waiting] == [False] * 7 + [True] * 5
            assert link.counts.unsent == 5
            between.open.set()
            assert [await sent is None for sent in waiting] == [False] * 7 + [True] * 5
            assert await link.send(mebibyte, 1) is not None

    run(act())


def test_closing_answers_all_who_wait(run: Run, redis_server: Server) -> None:
    """Whoever still waits when the link is closed is told so, and so is who comes later."""

    async def act() -> None:
        async with proxy(redis_server.port) as between, linked(between.url) as link:
            between.swallowing = True
            waiting = link.send(echo("x"), 1)
            await asyncio.sleep(0)
            unsent = link.send(echo("x"), 1)
            await link.close()
            assert [await waiting, await unsent, await link.send(echo("x"), 1)] == [None, None, None]
            assert link.state is LinkState.CLOSED

    run(act())


def test_a_link_that_is_down_can_be_closed(run: Run) -> None:
    """Its attempts to connect end with it."""

    async def act(server: Server) -> None:
        async with linked(server.url) as link:
            server.kill()
            await until(lambda: link.state is LinkState.DOWN)

    with running(redis_binary()) as server:
        run(act(server))


def test_logging_in_with_a_user_of_the_acl(run: Run, redis_server: Server) -> None:
    """User and password stand in the URL, percent-encoded; a wrong password is told without showing it."""
    redis_server.ask("ACL", "SETUSER", "scorer", "on", ">s3cret@/:", "~*", "+@all")

    async def act() -> None:
        place = redis_server.url.removeprefix("redis://")
        async with linked(f"redis://scorer:s3cret%40%2F%3A@{place}/0") as link:
            assert await link.send(command("ACL", "WHOAMI"), 1) == [b"scorer"]
        with pytest.raises(StoreUnavailable, match=f"redis://{place}: .*WRONGPASS|invalid username") as raised:
            async with linked(f"redis://scorer:guessed@{place}"):
                pass
        assert "guessed" not in str(raised.value)

    run(act())


def test_the_database_of_the_url_is_used(run: Run, redis_server: Server) -> None:
    """A server may be shared by number."""

    async def act() -> None:
        async with linked(f"{redis_server.url}/3") as link:
            await link.send(command("SET", "where", "three"), 1)
        assert redis_server.ask("GET", "where") is None

    run(act())


def test_a_unix_socket_serves_as_well(run: Run, redis_server: Server) -> None:
    """unix:// is followed by a path."""

    async def act() -> None:
        async with linked(redis_server.unix_url) as link:
            assert await link.send(echo("x"), 1) == [b"x"]

    run(act())


def test_tls_is_used_and_checked(run: Run, tmp_path: Path) -> None:
    """rediss:// talks to the server whose authority is named, and to no other."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(  # noqa: S603 - our own command
        [
            "/usr/bin/openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=store",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    options = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"]

    async def act(port: int) -> None:
        url = f"rediss://127.0.0.1:{port}"
        async with linked(f"{url}?ssl_ca_certs={certificate}") as link:
            assert await link.send(echo("x" * 100_000), 1) == [b"x" * 100_000]
        with pytest.raises(StoreUnavailable, match="certificate"):
            async with linked(url):
                pass

    with running(redis_binary(), *map(str, options), plain=False) as server:
        run(act(server.port))


def test_who_cannot_be_reached_is_named_without_its_password(run: Run) -> None:
    """The message says where, and why."""

    async def act() -> None:
        place = f"127.0.0.1:{free_port()}"
        with pytest.raises(StoreUnavailable, match=f"^redis://{place}: .*(111|refused)") as raised:
            async with linked(f"redis://:s3cret@{place}"):
                pass
        assert "s3cret" not in str(raised.value)

    run(act())


def test_who_does_not_answer_cannot_be_opened(run: Run, redis_server: Server) -> None:
    """A server that accepts connections and does nothing else is none."""

    async def act() -> None:
        async with proxy(redis_server.port) as silent:
            silent.open.clear()
            with pytest.raises(StoreUnavailable):
                async with linked(silent.url):
                    pass

    run(act())


def test_a_server_of_another_kind_is_refused(run: Run) -> None:
    """Something that speaks HTTP is told from Redis."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def act() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        with pytest.raises(StoreUnavailable):
            async with linked(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"):
                pass
        listening.close()
        await listening.wait_closed()

    run(act())


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@host:port/0",
        "http://:s3cret@host",
        "redis://:s3cret@host?colour=red",
        "redis://:s3/cret@host:1",
    ],
)
def test_a_url_that_is_none_is_refused_without_showing_it(url: str) -> None:
    """What cannot be a store's URL is a fault of the settings."""
    with pytest.raises(SettingsInvalid) as raised:
        dialler(url)
    assert "cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://host", "redis://host"),
        ("rediss://user:pass@host:1/2?ssl_ca_certs=/ca", "rediss://host:1/2"),
        ("unix://:pass@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://:p@ss/w?rd@host:1", "redis://host:1"),
        ("redis://host?username=a@b&password=pass", "redis://b"),
        ("redis://[::1]:1", "redis://[::1]:1"),
    ],
)
def test_a_server_is_named_without_secrets(url: str, name: str) -> None:
    """Whatever the URL looks like, no part of a password is in the name."""
    assert server_name(url) == name
