"""Decision records and snapshots as bytes: small, because a store keeps one for every decision of a day."""

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from service.features.spec import KEY_FIELDS
from service.stores.base import DecisionRecord, Snapshot

FORMAT = 1  # the first byte of everything written here; another one is refused
_HEAD = struct.Struct("<B16sq4sB")  # format, digest, event time, spec, number of revs
_SNAPSHOT_HEAD = struct.Struct("<BHHBI")  # format, features, categories, entities, length of the request

# What every response has, as single bytes that no JSON in ASCII contains: half of its size. New fragments go to the
# end, and none is ever changed: old records are read with the same list. Longer ones stand before their parts.
_FRAGMENTS = (
    b'{"transaction_id":"',
    b'","decision_id":"d-',
    b'","decision":"approve","probability":',
    b'","decision":"challenge","probability":',
    b'","decision":"review","probability":',
    b'","decision":"decline","probability":',
    b',"score":',
    b',"reasons":[],"thresholds":{"version":',
    b',"reasons":[{"code":"',
    b'}],"thresholds":{"version":',
    b',"segment":"default"},"model":{"name":"',
    b',"segment":"',
    b'"},"model":{"name":"',
    b'","version":"',
    b'","sha256":"',
    b'"},"degraded":[],"scored_at":"',
    b'"},"degraded":["',
    b'"],"scored_at":"',
    b'Z","latency_ms":',
    b'","contribution":',
    b',"value":',
    b',"description":"',
    b'"},{"code":"',
)
_CODES = tuple(bytes([0x80 + index]) for index in range(len(_FRAGMENTS)))
_PLAIN, _PACKED = b"\x00", b"\x01"


def encode_record(record: DecisionRecord) -> bytes:
    """A record without its position, which is appended to it once it is known (see `decode_record`)."""
    tokens = [b"" if token is None else token.encode() for token in record.tokens]
    body = b"".join((
        _HEAD.pack(FORMAT, record.digest, record.event_time_ms, bytes.fromhex(record.spec), len(record.revs)),
        struct.pack(f"<{len(record.revs)}i", *record.revs),
        bytes(map(len, tokens)),
        *tokens,
        pack_response(record.response),
    ))  # fmt: skip
    return struct.pack("<H", len(body)) + body


def decode_record(value: bytes) -> DecisionRecord:
    """The record in an encoded one, with what stands behind it as its position.

    Raises:
        ValueError: these bytes are no record of this format.
    """
    try:
        (length,) = struct.unpack_from("<H", value)
        form, digest, event_time_ms, spec, entities = _HEAD.unpack_from(value, 2)
        if form != FORMAT:
            raise ValueError(f"expected a record of format {FORMAT}, found {form}")
        at = 2 + _HEAD.size
        revs = struct.unpack_from(f"<{entities}i", value, at)
        at += 4 * entities
        sizes = value[at : at + len(KEY_FIELDS)]
        tokens = list(_cut(value, at + len(KEY_FIELDS), sizes))
        at += len(KEY_FIELDS) + sum(sizes)
        response = unpack_response(value[at : 2 + length])
        position = value[2 + length :].decode("ascii")
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError("these bytes are no decision record") from error
    return DecisionRecord(
        digest, response, event_time_ms, tuple(token or None for token in tokens), spec.hex(), revs, position
    )


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """A snapshot: floats in full, codes in two bytes, findings in one."""
    head = _SNAPSHOT_HEAD.pack(
        FORMAT, len(snapshot.numeric), len(snapshot.categorical), len(snapshot.findings), len(snapshot.request)
    )
    return b"".join((
        head,
        snapshot.numeric.astype("<f4").tobytes(),
        snapshot.categorical.astype("<i2").tobytes(),
        snapshot.findings.astype("u1").tobytes(),
        snapshot.request,
    ))  # fmt: skip


def decode_snapshot(value: bytes) -> Snapshot:
    """The snapshot in an encoded one.

    Raises:
        ValueError: these bytes are no snapshot of this format.
    """
    try:
        form, features, categories, entities, request = _SNAPSHOT_HEAD.unpack_from(value)
    except struct.error as error:
        raise ValueError("these bytes are no snapshot") from error
    sizes = (4 * features, 2 * categories, entities, request)
    if form != FORMAT or len(value) != _SNAPSHOT_HEAD.size + sum(sizes):
        raise ValueError(f"expected a snapshot of format {FORMAT}, found one of format {form} or of another length")
    at = _SNAPSHOT_HEAD.size
    ends = np.cumsum([at, *sizes]).tolist()
    numeric, categorical, findings, body = (value[first:last] for first, last in zip(ends[:-1], ends[1:], strict=True))
    return Snapshot(
        body,
        np.frombuffer(numeric, "<f4").astype(np.float32),
        np.frombuffer(categorical, "<i2").astype(np.int64),
        np.frombuffer(findings, "u1").astype(np.int64),
    )


def pack_response(response: bytes) -> bytes:
    """A response in about half of its bytes, or as it is where it is not ASCII."""
    if not response.isascii():
        return _PLAIN + response
    for fragment, code in zip(_FRAGMENTS, _CODES, strict=True):
        response = response.replace(fragment, code)
    return _PACKED + response


def unpack_response(packed: bytes) -> bytes:
    """What `pack_response` was given."""
    form, response = packed[:1], packed[1:]
    if form == _PACKED:
        for fragment, code in zip(_FRAGMENTS, _CODES, strict=True):
            response = response.replace(code, fragment)
    return response


def _cut(value: bytes, at: int, sizes: Sequence[int]) -> Iterator[str]:
    for size in sizes:
        yield value[at : at + size].decode("ascii")
        at += size
