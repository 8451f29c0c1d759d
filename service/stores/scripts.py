"""The Lua scripts of the Redis stores: each changes what must change together."""

from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

from service.stores.wire import command


class Script:
    """One script, called by its digest.

    Attributes:
        load: the command that makes a server know it.
    """

    def __init__(self, source: bytes) -> None:
        self.load = command("SCRIPT", "LOAD", source)
        self._digest = sha1(source).hexdigest()  # noqa: S324 - Redis names scripts so; nothing is protected by it

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> bytes:
        """The command that runs it."""
        return command("EVALSHA", self._digest, len(keys), *keys, *arguments)


class Scripts(NamedTuple):
    """All of them."""

    compact: Script
    decide: Script
    exchange: Script
    seed: Script

    @property
    def load(self) -> list[bytes]:
        """The commands that make a server know them."""
        return [script.load for script in self]


def read_scripts() -> Scripts:
    """The scripts beside this module."""
    return Scripts(*(Script(Path(__file__).with_name(f"{name}.lua").read_bytes()) for name in Scripts._fields))
