"""The heads of requests that were taken into the fast lane: the same bytes mean the same, and are not parsed again."""

from collections import OrderedDict
from hashlib import blake2b

from service.security import ApiKeys

MOST_HEADS = 4_096  # clients, times the lengths of their bodies; a digest and an entry have 300 bytes

_END = b"\r\n\r\n"


class Heads:
    """What the parser and the admission found out about a head, by its digest: a head holds a key, and is not kept.

    It is for a server that asks for the same keys as before; for another one, nothing is known.
    """

    def __init__(self) -> None:
        self._lengths: OrderedDict[bytes, int] = OrderedDict()  # by digest: of the body
        self._keys: ApiKeys | None = None

    def learn(self, segment: bytes, length: int, keys: ApiKeys | None) -> None:
        """Remember the head of a request that was admitted.

        Args:
            segment: what was received in one piece; nothing is learned unless it is one head and one body.
            length: of the body.
            keys: that the request was admitted by.
        """
        head, _, body = segment.partition(_END)
        if len(body) != length:
            return
        if keys is not self._keys:
            self._lengths.clear()
            self._keys = keys
        self._lengths[_digest(head)] = length
        if len(self._lengths) > MOST_HEADS:
            self._lengths.popitem(last=False)

    def body_of(self, segment: bytes, keys: ApiKeys | None) -> bytes | None:
        """The body in a segment that is one request with a head that is known; None where it may be something else."""
        head, _, body = segment.partition(_END)
        length = self._lengths.get(_digest(head))
        return body if length == len(body) and keys is self._keys else None


def _digest(head: bytes) -> bytes:
    return blake2b(head, digest_size=16).digest()
