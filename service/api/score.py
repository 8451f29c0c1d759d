"""The endpoints that decide: on one transaction, or on a batch as if its items were sent one by one."""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.problems import Problems, request_id
from service.api.running import Running, running
from service.api.wire import read_body, send_json, split_array
from service.errors import IdempotencyConflict, RequestInvalid
from service.scorer import Answer, ScoreRequest

ITEMS_PER_TURN = 16  # of an array, read between two chances for other requests


class ScoreEndpoint:
    """POST /score, in plain ASGI: this is the hot path."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, decide, answer."""
        parts = running(scope)
        body = await read_body(receive)
        arrival_ms = parts.now_ms()
        request = read_request(body, parts, arrival_ms)
        answer = await parts.waiting.submit(request)
        await send_json(send, answer.body, replayed=answer.replayed)


class BatchEndpoint:
    """POST /score/batch: an array of transactions in, an array of results out, in the same order."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, decide and answer item by item; between any few of them others have their turn."""
        parts = running(scope)
        items = await split_array(await read_body(receive))
        arrival_ms = parts.now_ms()
        identity = request_id(Request(scope))
        answers: list[asyncio.Future[Answer]] = []
        for first in range(0, len(items), ITEMS_PER_TURN):
            answers += [_submit(item, parts, arrival_ms) for item in items[first : first + ITEMS_PER_TURN]]
            await asyncio.sleep(0)
        await send_json(send, b"[" + b",".join(await self._written(answers, identity)) + b"]")

    async def _written(self, answers: Sequence["asyncio.Future[Answer]"], identity: str) -> list[bytes]:
        """What each answer comes to, written while the next ones are made: all at once would take milliseconds."""
        results: list[bytes] = []
        defects: list[Exception] = []
        for answer in answers:
            try:
                given = await answer
            except (RequestInvalid, IdempotencyConflict) as error:
                results.append(self._problems.item(error, request_id=identity))
            except Exception as error:  # noqa: BLE001 - raised below, once all are heard of
                defects.append(error)
            else:
                replayed = b"true" if given.replayed else b"false"
                results.append(b'{"status":200,"replayed":%b,"body":%b}' % (replayed, given.body))
        if defects:
            raise defects[0]
        return results


def _submit(item: bytes, parts: Running, arrival_ms: int) -> "asyncio.Future[Answer]":
    """What comes of an item; one that cannot be read fails."""
    try:
        return parts.bulk.submit(read_request(item, parts, arrival_ms))
    except RequestInvalid as error:
        failed: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed


def read_request(body: bytes, parts: Running, arrival_ms: int) -> ScoreRequest:
    """The transaction in a body, as the settings allow it.

    Raises:
        RequestInvalid: every fault found, none with the value sent.
    """
    return ScoreRequest.read(body, arrival_ms=arrival_ms, allow_card_numbers=parts.settings.allow_card_number_tokens)
