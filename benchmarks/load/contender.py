"""What the harness has to know about a server it measures: how it starts, and how one payment is put to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment, as our own service is sent it and as a server without features has to be.

    Attributes:
        body: the JSON of POST /score.
        numeric: the model's numeric input, one row, None where missing; empty unless the contender is stateless.
        categorical: the model's categorical input, one row, -1 where missing; the same.
    """

    body: bytes
    numeric: Sequence[float | None] = ()
    categorical: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Contender:
    """A server under measurement: listens on 127.0.0.1 and speaks HTTP/1.1 over kept-alive connections.

    Attributes:
        name: as the tables have it.
        command: given a port, what starts it there.
        environment: added to one without any TOUCHSTONE_ variable.
        ready: the path that answers 200 once it is ready.
        request: the whole HTTP/1.1 request for one payment.
        missing: why it cannot run here, and what to do about it; None where it can.
        stateless: it computes no features: it is sent the model's input, and may be sent the same twice.
        probability_in: reads the probability out of the body of a reply, to be held against onnxruntime's own.
        fault_in: what is wrong with the body of a reply; None where nothing is.
        redis_variable: the environment variable that shall name a Redis of its own; None where it needs none.
        cores: how many it is given, one for each worker.
        starts_within_s: how long it may take until it is ready.
        ends_within_s: how long it may take to end after SIGTERM.
    """

    name: str
    command: Callable[[int], Sequence[str]]
    environment: Mapping[str, str]
    ready: str
    request: Callable[[Payment], bytes]
    missing: str | None = None
    stateless: bool = False
    probability_in: Callable[[bytes], float] | None = None
    fault_in: Callable[[bytes], str | None] | None = None
    redis_variable: str | None = None
    cores: int = 1
    starts_within_s: float = 120.0
    ends_within_s: float = 30.0
