"""API keys: which clients may send requests. Only digests of keys are kept."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import SettingsInvalid
from service.faults import reason

_NAMES = frozenset({"clients", "name", "sha256"})
_FORM = '{"clients": [{"name": "checkout", "sha256": "<64 hexadecimal digits>"}]}'


class ApiKeys:
    """Clients by the SHA-256 of their keys. Keys are long and random, so a plain digest cannot be searched back."""

    def __init__(self, clients: Mapping[bytes, str]) -> None:
        self._clients = clients

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file of clients.

        Raises:
            SettingsInvalid: it cannot be read, is not of this form, or gives one key to two clients.
        """
        try:
            read = _File.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SettingsInvalid(f"TOUCHSTONE_API_KEYS_FILE {path}: {error.strerror}") from error
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(_shown, found["loc"])) or "the file"
            raise SettingsInvalid(
                f"TOUCHSTONE_API_KEYS_FILE {path}: {where}: {reason(found)}; expected {_FORM}"
            ) from None  # its text repeats what stands in the file
        clients = {bytes.fromhex(client.sha256): client.name for client in read.clients}
        if hashlib.sha256(b"").digest() in clients:
            raise SettingsInvalid(f"TOUCHSTONE_API_KEYS_FILE {path}: the digest of an empty key")
        if len(clients) < len(read.clients):
            raise SettingsInvalid(f"TOUCHSTONE_API_KEYS_FILE {path}: one key stands there twice")
        return cls(clients)

    def client_of(self, authorization: bytes | None) -> str | None:
        """Whose key an Authorization header (RFC 6750: `Bearer KEY`) carries; None: nobody's."""
        scheme, _, key = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return self._clients.get(hashlib.sha256(key.strip()).digest())


def _shown(part: str | int) -> str:
    """A part of a path in the file; whatever else stands there may be a key."""
    return str(part) if isinstance(part, int) or part in _NAMES else "(an unknown name)"


class _Client(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    clients: Annotated[list[_Client], Field(min_length=1)]
