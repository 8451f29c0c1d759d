"""Reading a JSON body and writing a JSON answer in plain ASGI, for the endpoints that FastAPI would slow down."""

import asyncio
import json
from collections.abc import Iterator

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Send

from service.errors import Fault, RequestInvalid

ITEMS_PER_TURN = 32  # split between two chances for other requests: a third of a millisecond
MAX_BATCH = 1_000  # items of one request: some 100 ms of work on one core

_JSON = (b"content-type", b"application/json")
_REPLAYED = (b"idempotent-replayed", b"true")
_BLANK = " \t\n\r"  # RFC 8259


async def read_body(receive: Receive) -> bytes:
    """The whole body; `Guard` bounds its size, `GuardedProtocol` its time.

    Raises:
        ClientDisconnect: the client left before its end.
    """
    message = await receive()
    parts = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
    raise ClientDisconnect


def json_headers(body: bytes, *, replayed: bool) -> list[tuple[bytes, bytes]]:
    """Of a JSON answer; `replayed` tells that it was given before."""
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    return [*headers, _REPLAYED] if replayed else headers


async def send_json(send: Send, body: bytes, *, replayed: bool = False) -> None:
    """A 200 with this body."""
    await send({"type": "http.response.start", "status": 200, "headers": json_headers(body, replayed=replayed)})
    await send({"type": "http.response.body", "body": body})


async def split_array(body: bytes) -> list[bytes]:
    """The items of a JSON array of 1 to 1,000 items, each as the bytes it was sent in.

    So an item of an array is read by the very function that reads a lone request. Others have their turn in between.

    Raises:
        RequestInvalid: not a JSON array, or of another length.
    """
    items = []
    try:
        for item in _items(body.decode()):
            items.append(item.encode())
            if len(items) % ITEMS_PER_TURN == 0:
                await asyncio.sleep(0)
    except (ValueError, IndexError, RecursionError) as error:
        raise RequestInvalid([Fault("body", "a JSON array of objects")], code="invalid_json") from error
    if not 1 <= len(items) <= MAX_BATCH:
        raise RequestInvalid([Fault("body", f"1 to {MAX_BATCH} items")])
    return items


def _items(text: str) -> Iterator[str]:
    """The text of each item of an array, at most one more than a batch may have.

    Raises:
        ValueError, IndexError, RecursionError: it is no JSON array.
    """
    scan = json.JSONDecoder().raw_decode
    at = _expect(text, 0, "[")
    if text[at] == "]":
        at = _expect(text, at, "]")
    else:
        for _ in range(MAX_BATCH + 1):
            start, (_, at) = at, scan(text, at)
            yield text[start:at]
            at = _after_blanks(text, at)
            if text[at] == "]":
                break
            at = _expect(text, at, ",")
        else:
            return
        at = _expect(text, at, "]")
    if at != len(text):
        raise ValueError("something follows the array")


def _expect(text: str, at: int, mark: str) -> int:
    """The position after a mark and the blanks around it."""
    at = _after_blanks(text, at)
    if text[at] != mark:
        raise ValueError(f"expected {mark}")
    return _after_blanks(text, at + 1)


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at
