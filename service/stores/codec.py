"""Decision records as bytes: small, because a store keeps one for every decision of a day."""

import struct
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from service.features.spec import KEY_FIELDS
from service.response import Response
from service.stores.base import DecisionRecord

RECORD_FORMAT = 2  # the first byte behind a record's length; another one is refused
WITHOUT_AMOUNT = 1  # but for this format of records, which are still held while the service is replaced
_AMOUNT_BYTES = 6  # holds `service.features.entry.AMOUNT_LIMIT`
_HEAD = struct.Struct("<B16sq4sB")  # format, digest, event time, spec, number of revs


def encode_record(record: DecisionRecord) -> bytes:
    """A record without its position, which is appended to it once it is known (see `decode_record`)."""
    tokens = [token or "" for token in record.tokens]
    tail = "".join(tokens).encode("ascii") + record.response.packed
    revs, amount = record.revs, record.amount_minor.to_bytes(_AMOUNT_BYTES, "little")
    head = _record_head(len(revs))
    length = head.size - 2 + len(tail)  # without the two bytes that it is written in
    written = head.pack(
        length, RECORD_FORMAT, record.digest, record.event_time_ms, _from_hex(record.spec), len(revs), *revs,
        amount, *map(len, tokens),
    )  # fmt: skip
    return written + tail


@cache
def _record_head(revs: int) -> struct.Struct:
    """The length of the record, `_HEAD`, so many revs, the amount, and the lengths of the tokens."""
    return struct.Struct(f"<H{_HEAD.format[1:]}{revs}i{_AMOUNT_BYTES}s{len(KEY_FIELDS)}B")


_from_hex = lru_cache(maxsize=8)(bytes.fromhex)  # of the few specs there are


def decode_record(value: bytes) -> DecisionRecord:
    """The record in an encoded one, with what stands behind it as its position; the amount is 0 in an early one.

    Raises:
        ValueError: these bytes are no record of this format.
    """
    try:
        (length,) = struct.unpack_from("<H", value)
        form, digest, event_time_ms, spec, entities = _HEAD.unpack_from(value, 2)
        if form not in {RECORD_FORMAT, WITHOUT_AMOUNT}:
            raise ValueError(f"expected a record of format {RECORD_FORMAT}, found {form}")
        at = 2 + _HEAD.size
        revs = struct.unpack_from(f"<{entities}i", value, at)
        at += 4 * entities
        amount = value[at : at + (0 if form == WITHOUT_AMOUNT else _AMOUNT_BYTES)]
        at += len(amount)
        sizes = value[at : at + len(KEY_FIELDS)]
        tokens = list(_cut(value, at + len(KEY_FIELDS), sizes))
        at += len(KEY_FIELDS) + sum(sizes)
        response = Response.unpack(value[at : 2 + length])
        position = value[2 + length :].decode("ascii")
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError("these bytes are no decision record") from error
    amount_minor, named = int.from_bytes(amount, "little"), tuple(token or None for token in tokens)
    return DecisionRecord(digest, response, event_time_ms, amount_minor, named, spec.hex(), revs, position)


def _cut(value: bytes, at: int, sizes: Sequence[int]) -> Iterator[str]:
    for size in sizes:
        yield value[at : at + size].decode("ascii")
        at += size
