"""`make demo`: a minute of simulated payments through a real service, and what it made of them."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from benchmarks.connection import Connection, Reply
from benchmarks.measure import OK, Latency, RequestRefused
from benchmarks.payments import batch_bodies, request_bodies
from benchmarks.serving import running_service
from service.api.schemas import ScoreResponse
from service.decision import Decision
from service.vocabulary import minor_unit_exponent
from training.simulate import SimulationConfig, simulate

PAST, DAYS, SEED = 30_000, 60, 11
PAYMENTS_PER_SECOND = 50
PREVALENCE = 0.02  # a bad minute, on purpose: at one in a thousand there would be little to see
BATCH = 1_000
SHOWN = 40  # lines about payments that were not approved; the rest is only counted
STYLES = {Decision.APPROVE: "green", Decision.CHALLENGE: "cyan", Decision.REVIEW: "yellow", Decision.DECLINE: "red"}


@dataclass(frozen=True, slots=True)
class Answered:
    """One payment: what the service said, after how long, and what the simulator knows about it."""

    response: ScoreResponse
    seconds: float
    amount: str
    truth: str  # the kind of fraud; empty for a legitimate payment

    @property
    def decision(self) -> Decision:
        """What was decided."""
        return Decision.from_word(self.response.decision)


def demo(console: Console, *, port: int, model_dir: Path | None, seconds: float, past: int) -> None:
    """Start a service, give it a past, then send it payments at a steady pace and show the decisions.

    Args:
        console: where it is shown.
        port: a free one.
        model_dir: a bundle or a directory of versions, or None for the shipped one.
        seconds: how long payments are sent.
        past: payments sent beforehand, so that cards have a history.

    Raises:
        ServiceFailed: the service did not start.
        RequestRefused: it refused a payment.
    """
    count = max(1, int(seconds * PAYMENTS_PER_SECOND))
    frame = simulate(SimulationConfig(transactions=past + count, days=DAYS, seed=SEED, prevalence=PREVALENCE))
    with running_service(port=port, model_dir=model_dir) as address, Connection(address) as connection:
        console.print(f"Touchstone listens at {address}; first it is told of {past:,} payments of the past.")
        batches = batch_bodies(frame[:past], size=BATCH)
        for body in track(batches, "  the past", past // BATCH, console=console, transient=True):
            _checked(connection.post("/score/batch", body))
        console.print(
            f"Now {PAYMENTS_PER_SECOND} payments a second for {seconds:.0f} s; shown is what is not approved.\n"
        )
        answered = []
        for payment in _answers(connection, frame[past:]):
            answered.append(payment)
            if payment.decision > Decision.APPROVE and _interventions(answered) <= SHOWN:
                console.print(_line(payment))
        console.print(_summary(answered))
        console.print(_metrics(connection))


def _answers(connection: Connection, frame: pl.DataFrame) -> Iterator[Answered]:
    """Send the payments at their pace."""
    begin = time.perf_counter()
    rows = frame.select("amount", "currency", "typology").iter_rows()
    for number, (body, (amount, currency, typology)) in enumerate(zip(request_bodies(frame), rows, strict=True)):
        time.sleep(max(0.0, begin + number / PAYMENTS_PER_SECOND - time.perf_counter()))
        sent = time.perf_counter()
        reply = _checked(connection.post("/score", body))
        seconds = time.perf_counter() - sent
        response = ScoreResponse.model_validate_json(reply.body)
        decimals = minor_unit_exponent(currency)
        yield Answered(response, seconds, f"{amount / 10**decimals:,.{decimals}f} {currency}", typology or "")


def _interventions(answered: list[Answered]) -> int:
    return sum(payment.decision > Decision.APPROVE for payment in answered)


def _line(payment: Answered) -> str:
    response, style = payment.response, STYLES[payment.decision]
    probability = "not scored" if response.probability is None else f"{response.probability:6.1%}"
    decision = f"[{style}]{response.decision:9}[/{style}]"
    reasons = escape(", ".join(reason.code for reason in response.reasons[:2]))
    truth = f"[bold]{escape(payment.truth)}[/bold]" if payment.truth else "legitimate"
    return f"{decision} {probability} {payment.amount:>16}  {reasons}  (in truth: {truth})"


def _summary(answered: list[Answered]) -> Table:
    """Decisions by what the payments were in truth."""
    counts = Counter((bool(payment.truth), payment.decision) for payment in answered)
    latency = Latency.of([payment.seconds for payment in answered])
    answers = f"answered in {latency.median_ms:.2f} ms (median), {latency.p99_ms:.2f} ms (p99)"
    table = Table(title=f"{len(answered):,} payments, {answers}")
    table.add_column("decision")
    table.add_column("legitimate", justify="right")
    table.add_column("fraud", justify="right")
    for decision, style in STYLES.items():
        table.add_row(f"[{style}]{decision.word}", f"{counts[False, decision]:,}", f"{counts[True, decision]:,}")
    return table


def _metrics(connection: Connection) -> str:
    """A few of the lines that Prometheus would read."""
    lines = connection.get("/metrics").body.decode().splitlines()
    shown = ("fraud_decisions_total", "fraud_degraded_total", "fraud_store_entities", "fraud_model_info")
    return escape("GET /metrics\n" + "\n".join(f"  {line}" for line in lines if line.startswith(shown)))


def _checked(reply: Reply) -> Reply:
    if reply.status != OK:
        raise RequestRefused(f"{reply.status}: {reply.body.decode()}")
    return reply
