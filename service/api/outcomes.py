"""The endpoint that hears what later turned out about transactions."""

from dataclasses import asdict

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.api.problems import Problems, request_id
from service.api.running import Running, running
from service.api.wire import read_body, send_json, split_array
from service.errors import OutcomeKeysNeeded, RequestInvalid, StoreUnavailable
from service.reporter import Reported
from service.transaction import Outcome, read_outcome


class OutcomesEndpoint:
    """POST /outcomes: one outcome, or an array of them; in plain ASGI so that it reads as strictly as /score."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, take into the histories, answer."""
        parts = running(scope)
        body = await read_body(receive)
        many = body.lstrip().startswith(b"[")
        results = await _take(await split_array(body) if many else [body], parts)
        if many:
            identity = request_id(Request(scope))
            await send_json(send, b"[" + b",".join(self._item(result, identity) for result in results) + b"]")
            return
        [result] = results
        if not isinstance(result, Reported):
            raise result
        await send_json(send, orjson.dumps(asdict(result)))

    def _item(self, result: "_Result", identity: str) -> bytes:
        if isinstance(result, Reported):
            return b'{"status":200,"body":%b}' % orjson.dumps(asdict(result))
        return self._problems.item(result, request_id=identity)


_Result = Reported | OutcomeKeysNeeded | StoreUnavailable | RequestInvalid


async def _take(items: list[bytes], parts: Running) -> list[_Result]:
    """What became of each item, those that cannot be read included."""
    arrival_ms = parts.now_ms()
    reads = [_read_or_fault(item, parts, arrival_ms) for item in items]
    outcomes = [read for read in reads if isinstance(read, Outcome)]
    reports = iter(await parts.reporter.report(outcomes, arrival_ms=arrival_ms))
    results = [next(reports) if isinstance(read, Outcome) else read for read in reads]
    for read, result in zip(reads, results, strict=True):
        if isinstance(read, Outcome) and isinstance(result, Reported):
            parts.telemetry.observe_outcome(read.type.value)
    return results


def _read_or_fault(item: bytes, parts: Running, arrival_ms: int) -> Outcome | RequestInvalid:
    try:
        return read_outcome(item, arrival_ms=arrival_ms, allow_card_numbers=parts.settings.allow_card_number_tokens)
    except RequestInvalid as error:
        return error
