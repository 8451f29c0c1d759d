"""The endpoints that decide: on one transaction, or on a batch as if its items were sent one by one."""

import asyncio

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.problems import Problems, request_id
from service.api.running import Running, running
from service.api.wire import read_body, send_json, split_array
from service.errors import IdempotencyConflict, RequestInvalid
from service.scorer import Answer, ScoreRequest

ITEMS_PER_TURN = 64  # of a batch, between two chances for other requests


class ScoreEndpoint:
    """POST /score, in plain ASGI: this is the hot path."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, decide, answer."""
        parts = running(scope)
        body = await read_body(receive)
        arrival_ms = parts.now_ms()
        request = _read(body, parts, arrival_ms)
        answer = await parts.waiting.submit(request)
        if isinstance(answer, IdempotencyConflict):
            raise answer
        await send_json(send, answer.body, replayed=answer.replayed)


class BatchEndpoint:
    """POST /score/batch: an array of transactions in, an array of results out, in the same order."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, decide and answer item by item, some at a time."""
        parts = running(scope)
        items = split_array(await read_body(receive))
        arrival_ms = parts.now_ms()
        identity = request_id(Request(scope))
        results: list[bytes] = []
        for first in range(0, len(items), ITEMS_PER_TURN):
            turn = items[first : first + ITEMS_PER_TURN]
            results += [self._result(answer, identity) for answer in await _decide(turn, parts, arrival_ms)]
            await asyncio.sleep(0)
        await send_json(send, b"[" + b",".join(results) + b"]")

    def _result(self, answer: "_ItemAnswer", identity: str) -> bytes:
        if isinstance(answer, Answer):
            replayed = b"true" if answer.replayed else b"false"
            return b'{"status":200,"replayed":%b,"body":%b}' % (replayed, answer.body)
        return self._problems.item(answer, request_id=identity)


_ItemAnswer = Answer | IdempotencyConflict | RequestInvalid


async def _decide(items: list[bytes], parts: Running, arrival_ms: int) -> list[_ItemAnswer]:
    """The answer to each item, those that cannot be read included."""
    reads = [_read_or_fault(item, parts, arrival_ms) for item in items]
    requests = [read for read in reads if isinstance(read, ScoreRequest)]
    answers = iter(await parts.scorer.score(requests) if requests else [])
    return [next(answers) if isinstance(read, ScoreRequest) else read for read in reads]


def _read_or_fault(item: bytes, parts: Running, arrival_ms: int) -> ScoreRequest | RequestInvalid:
    try:
        return _read(item, parts, arrival_ms)
    except RequestInvalid as error:
        return error


def _read(body: bytes, parts: Running, arrival_ms: int) -> ScoreRequest:
    return ScoreRequest.read(body, arrival_ms=arrival_ms, allow_card_numbers=parts.settings.allow_card_number_tokens)
