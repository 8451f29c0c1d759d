"""The store of published thresholds: numbered versions in an append-only file of JSON lines.

Each line carries a SHA-256 over itself and the line before it, so a changed, missing or moved line is found.
"""

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from io import FileIO
from pathlib import Path

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, ValidationError

from service.errors import NotWritable, StateInvalid, ThresholdsInvalid, VersionConflict
from service.thresholds import Thresholds, parse_thresholds

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_BEFORE_THE_FIRST = "0" * 64  # what stands for the digest of the line before the first


class Source(StrEnum):
    """Where the thresholds in force come from."""

    PUBLISHED = "published"
    FILE = "file"
    BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class Version:
    """Thresholds in force, with what is known about how they came to be.

    Attributes:
        number: from 1; 0 is a file's or bundle's document, which nobody published.
        etag: a strong entity tag (RFC 9110), quotes included; another number or document has another one.
        published_at: in UTC; None for number 0, as are author and comment.
    """

    number: int
    etag: str
    source: Source
    author: str | None
    comment: str | None
    published_at: datetime | None
    thresholds: Thresholds


class ThresholdStore:
    """Serves one version, publishes the next.

    What was published stays in force whatever file or bundle the process is started with later. Publishing is safe
    between threads, and between processes that share the file: each sees the others' versions when it publishes,
    refreshes or starts.
    """

    def __init__(self, path: Path | None, initial: Thresholds, source: Source) -> None:
        """Read what was published.

        Args:
            path: the file; it need not exist. None: nothing is kept and nothing can be published.
            initial: in force until something is published.
            source: where `initial` comes from.

        Raises:
            StateInvalid: the file cannot be read, was altered, or holds thresholds that do not fit the bundle.
        """
        self.current = _unpublished(initial, source)
        self._path = path
        self._base_currency = initial.document.currency
        self._size = 0  # bytes of the file that were read and found whole
        self._digest = _BEFORE_THE_FIRST  # of the last line within them
        self._seen: tuple[int, int, int] | None = None  # how the file looked before it was last read
        if path is not None:
            self._seen = _appearance(path)
            self._read(path)

    def publish(
        self, document: object, *, comment: str, author: str, if_match: Collection[str], now: datetime
    ) -> Version:
        """Put a document in force as the next version; it is on disk before it is served.

        Args:
            document: parsed JSON.
            comment: why, for whoever reads the history.
            author: who.
            if_match: the entity tags of the versions this one may replace.
            now: an aware time.

        Raises:
            ThresholdsInvalid: the document has faults.
            VersionConflict: another version is in force.
            NotWritable: the file cannot be written, or was altered while we were running.
        """
        thresholds = parse_thresholds(document, base_currency=self._base_currency)
        with _opened_to_append(self._path) as file:
            try:
                self._catch_up(file)
            except StateInvalid as error:
                raise NotWritable(str(error)) from error
            if self.current.etag not in if_match:
                raise VersionConflict(f"version {self.current.number} is in force; read it and make your change to it")
            record = _Record(
                number=self.current.number + 1,
                author=author,
                comment=comment,
                published_at=now.astimezone(UTC),
                document=_as_written(thresholds),
            )
            line, digest = _sealed(record, after=self._digest)
            _append(file, line, at=self._size)
            self._size, self._digest = self._size + len(line), digest
            self.current = _published(record, thresholds)
            return self.current

    def refresh(self) -> None:
        """Take over what other processes published. If that is nothing, it costs one look at the file's size and time.

        Where the file cannot be read any more, or was altered, the version in force stays, and the log says so once.
        """
        if self._path is None or (seen := _appearance(self._path)) == self._seen:
            return
        self._seen = seen
        try:
            self._read(self._path)
        except StateInvalid as error:
            _log.error("thresholds_not_refreshed", in_force=self.current.number, reason=str(error))

    def _read(self, path: Path) -> None:
        try:
            with FileIO(path) as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                self._catch_up(file)
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._size:
                raise self._gone() from error
            # else nothing was published yet
        except OSError as error:
            raise StateInvalid(f"{path}: what was published cannot be read ({error.strerror})") from error

    def _catch_up(self, file: FileIO) -> None:
        """Take over the lines that were not read yet; the last one's thresholds come into force."""
        if os.fstat(file.fileno()).st_size < self._size:
            raise self._gone()
        file.seek(self._size)
        *lines, torn = file.read().split(b"\n")
        if torn:
            _log.warning("torn_thresholds_line_dropped", path=str(self._path), size_bytes=len(torn))
        record, size, digest = None, self._size, self._digest
        for number, line in enumerate(lines, start=self.current.number + 1):
            record, digest = self._unsealed(line, number, after=digest)
            size += len(line) + 1
        if record is not None:
            self.current = _published(record, self._fitting(record))
        self._size, self._digest = size, digest

    def _gone(self) -> StateInvalid:
        return StateInvalid(f"{self._path}: lines that were read before are gone; {_REMEDY}")

    def _unsealed(self, line: bytes, number: int, *, after: str) -> tuple["_Record", str]:
        """The record in a line, with the line's digest. Sealing it again must give the same bytes."""
        try:
            record = _Line.model_validate_json(line).record
        except ValidationError:
            record = None
        if record is not None:
            sealed, digest = _sealed(record, after=after)
            if sealed == line + b"\n":
                return record, digest
        raise StateInvalid(f"{self._path}: line {number} was altered or is not in its place; {_REMEDY}")

    def _fitting(self, record: "_Record") -> Thresholds:
        try:
            return parse_thresholds(record.document, base_currency=self._base_currency)
        except ThresholdsInvalid as error:
            raise StateInvalid(
                f"{self._path}: published version {record.number} does not fit this bundle ({error}); {_REMEDY}"
            ) from error


_REMEDY = "restore the file from a backup, or move it away to start again from those of THRESHOLDS_FILE or the bundle"


def _unpublished(thresholds: Thresholds, source: Source) -> Version:
    return Version(
        number=0,
        etag=_etag(0, thresholds),
        source=source,
        author=None,
        comment=None,
        published_at=None,
        thresholds=thresholds,
    )


def _published(record: "_Record", thresholds: Thresholds) -> Version:
    return Version(
        number=record.number,
        etag=_etag(record.number, thresholds),
        source=Source.PUBLISHED,
        author=record.author,
        comment=record.comment,
        published_at=record.published_at,
        thresholds=thresholds,
    )


def _etag(number: int, thresholds: Thresholds) -> str:
    return f'"{number}-{sha256(_canonical(_as_written(thresholds))).hexdigest()[:16]}"'


def _as_written(thresholds: Thresholds) -> dict[str, JsonValue]:
    return thresholds.document.model_dump(mode="json", exclude_unset=True)


class _Record(BaseModel):
    """What is kept of a version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    author: str
    comment: str
    published_at: AwareDatetime
    document: dict[str, JsonValue]


class _Line(BaseModel):
    """A record, sealed by the digest of itself and the line before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    record: _Record
    sha256: str


def _sealed(record: _Record, *, after: str) -> tuple[bytes, str]:
    """A record as a line of the file, with the line's digest."""
    kept = record.model_dump(mode="json")
    digest = sha256(after.encode() + _canonical(kept)).hexdigest()
    return _canonical({"record": kept, "sha256": digest}) + b"\n", digest


def _canonical(value: JsonValue) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _appearance(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever a file does; None where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _opened_to_append(path: Path | None) -> Iterator[FileIO]:
    if path is None:
        raise NotWritable("there is no state directory to keep thresholds in")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "a+")
    except OSError as error:
        raise NotWritable(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # held by this opening: it keeps out threads as well as processes
        yield file


def _append(file: FileIO, line: bytes, *, at: int) -> None:
    """Write a line behind the whole ones, over a torn one, and wait for the disk. On failure nothing of it stays."""
    try:
        file.truncate(at)
        while line:  # a filling disk takes a part first and refuses the rest
            line = line[file.write(line) :]
        os.fsync(file.fileno())
        _sync_directory(Path(os.fsdecode(file.name)).parent)
    except OSError as error:
        with suppress(OSError):
            file.truncate(at)
        raise NotWritable(f"{file.name!s}: cannot be written ({error})") from error


def _sync_directory(directory: Path) -> None:
    """Make a new file's name durable too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
