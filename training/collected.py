"""Collected: what was served, read back and folded again in the order in which the store accepted it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.currency import CurrencyTable
from service.decision import Decision
from service.dossier import Dossier, label_of
from service.errors import DataInvalid
from service.features.encoding import read_entries
from service.features.entry import MISSING, Column, Kind
from service.features.kernel import ABSENT, DUPLICATE, UNAVAILABLE, UNKNOWN
from service.features.offline import categorical_codes, differing, fold_events, fold_logs, fold_transactions
from service.features.plan import END_FEATURE, FIRST_LAYOUT, Plan
from service.features.spec import DAY_MS
from service.transaction import Outcome, OutcomeType
from training.collection import (
    DECISION_SCHEMA,
    DECISIONS,
    ENTRIES,
    ENTRY_SCHEMA,
    OUTCOME_SCHEMA,
    OUTCOMES,
    PLACE_SCHEMA,
    SEED_SCHEMA,
    SEEDS,
    SPECS,
    last_tails,
    read_plans,
    read_table,
)
from training.examples import KEYS, Examples, transaction_rows

NOT_SERVED = UNKNOWN | UNAVAILABLE  # the model was told that this is missing, whatever the logs hold by now
NOT_COMPARABLE = ABSENT | UNKNOWN | UNAVAILABLE | DUPLICATE  # nothing was computed, or not as of the entry's place
NO_LABEL = -1

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Collected:
    """A collection as it was read.

    Attributes:
        decisions: one row per transaction (`DECISION_SCHEMA`), in the order of arrival.
        outcomes: in the order of arrival (`OUTCOME_SCHEMA`).
        entries: one row per place in a log (`ENTRY_SCHEMA` and the entity), log by log in the order of the revs.
        seeds: the bases that backfilled logs begin with (`SEED_SCHEMA` and the entity).
        plans: by the first 8 hexadecimal digits of the spec.
        contradictions: places for which two different entries were collected; neither is among `entries`.
    """

    decisions: pl.DataFrame
    outcomes: pl.DataFrame
    entries: pl.DataFrame
    seeds: pl.DataFrame
    plans: Mapping[str, Plan]
    contradictions: int

    @property
    def end_ms(self) -> int:
        """When the last thing arrived."""
        times = pl.concat([self.decisions["scored_at"], self.outcomes["arrived_at"]])
        return int(times.dt.epoch("ms").max())  # type: ignore[arg-type] # the largest of some integers


@dataclass(frozen=True, slots=True)
class Selection:
    """What can be learnt from a collection, and how many of its decisions cannot.

    Attributes:
        examples: in the order of event time.
        young: not old enough for all of their outcomes to be known.
        unlabelled: declined, by us or by the issuer, so that nobody can ever say what they were.
        incomplete: with an entity whose log was not collected whole.
    """

    examples: Examples
    young: int
    unlabelled: int
    incomplete: int


@dataclass(frozen=True, slots=True)
class Parity:
    """What came of computing decisions again.

    Attributes:
        decisions: served under the spec in question.
        logs: visits of these to a log.
        cells: feature values and codes compared.
        cells_differing: of these, how many differ in any bit.
        revs_differing: visits whose place in the log is not the one on record.
        left_out: visits that could not be compared: their log is not whole, or was given a past later on.
        gaps: entries that were collected, but stand behind some that were not.
        features_differing: names of the features that differ anywhere.
    """

    decisions: int
    logs: int
    cells: int
    cells_differing: int
    revs_differing: int
    left_out: int
    gaps: int
    features_differing: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether everything that could be compared came out as it was served, bit for bit."""
        return self.cells_differing == 0 and self.revs_differing == 0


def read_collected(directory: Path) -> Collected:
    """Read what `training.collect` wrote.

    Raises:
        DataInvalid: this is no collection, or it holds no decision yet.
    """
    plans = read_plans(directory)
    if not plans:
        raise DataInvalid(f"{directory} is no collection: it has no {SPECS}/*.yaml")
    decisions = read_table(directory / DECISIONS, DECISION_SCHEMA).sort("scored_at", "position")
    if decisions.is_empty():
        raise DataInvalid(f"{directory} holds no decision that was collected")
    outcomes = read_table(directory / OUTCOMES, OUTCOME_SCHEMA).sort("arrived_at", "position")
    tails = last_tails(directory)
    parts = [directory / ENTRIES] if tails is None else [directory / ENTRIES, tails]
    entries = pl.concat([read_table(part, ENTRY_SCHEMA) for part in parts]).unique()
    twice = pl.struct(*PLACE_SCHEMA).is_duplicated()
    return Collected(
        decisions=decisions.unique("transaction_id", keep="first", maintain_order=True),
        outcomes=outcomes.unique(["transaction_id", "position"], maintain_order=True),
        entries=entries.filter(~twice).sort(*PLACE_SCHEMA),
        seeds=read_table(directory / SEEDS, SEED_SCHEMA).unique(list(PLACE_SCHEMA)),
        plans=plans,
        contradictions=entries.filter(twice).select(pl.struct(*PLACE_SCHEMA).n_unique()).item(),
    )


def select(collected: Collected, plan: Plan, currencies: CurrencyTable, *, label_maturity_days: float) -> Selection:
    """Feature vectors as they were served, or as another spec would have served them, with what became of them.

    Args:
        collected: what was served.
        plan: the compiled spec to compute.
        currencies: rates to the base currency.
        label_maturity_days: how old a transaction must be for silence to mean that it was legitimate. Younger ones are
            left out even if they are known to be fraud: days on which only frauds have a label would teach that
            everything is fraud.

    Raises:
        DataInvalid: nothing is left.
    """
    again = recompute(collected, plan, currencies)
    labels, reported_at_ms = _labels(collected)
    event_time_ms = again.rows[:, Column.TIME]
    young = event_time_ms > collected.end_ms - round(label_maturity_days * DAY_MS)
    unlabelled = ~young & (labels == NO_LABEL)
    incomplete = ~young & ~unlabelled & again.incomplete.any(axis=1)
    chosen = np.flatnonzero(~(young | unlabelled | incomplete))
    if not len(chosen):
        raise DataInvalid(
            f"of {len(young):,} decisions {young.sum():,} are younger than {label_maturity_days:g} days, "
            f"{unlabelled.sum():,} were declined and {incomplete.sum():,} have no whole history: none is left"
        )
    chosen = chosen[np.argsort(event_time_ms[chosen], kind="stable")]
    rows = again.rows[chosen]
    made = Examples(
        numeric=again.numeric[chosen],
        categorical=categorical_codes(plan, rows),
        labels=labels[chosen] == 1,
        reported_at_ms=reported_at_ms[chosen],
        event_time_ms=rows[:, Column.TIME].copy(),
        amount_minor=rows[:, Column.AMOUNT].copy(),
        card=rows[:, Column.CARD].copy(),
        typology=np.zeros(len(chosen), np.int32),
    )
    return Selection(made, int(young.sum()), int(unlabelled.sum()), int(incomplete.sum()))


def compare(collected: Collected, plan: Plan, currencies: CurrencyTable) -> Parity:
    """Compute every decision that was served under a spec again, and compare with what the model saw.

    Raises:
        DataInvalid: none was.
    """
    spec = plan.spec.sha256[:8]
    served = collected.decisions["spec"] == spec
    if not served.any():
        raise DataInvalid(f"no decision was served under the feature spec {spec}")
    again = recompute(collected, plan, currencies)
    rows = np.flatnonzero(served.to_numpy())
    decisions = collected.decisions.filter(served)
    seen = decisions["numeric"].list.to_array(len(plan.numeric)).to_numpy()
    visits = (again.findings[rows] & NOT_COMPARABLE) == 0
    recorded = decisions["revs"].list.to_array(len(plan.entities)).to_numpy()
    moved = (again.revs[rows] != recorded) & (again.revs[rows] >= 0)
    comparable = visits & ~again.incomplete[rows] & ~(moved & again.seeded[rows])
    cells = np.ones(seen.shape, np.bool_)
    for k, own in enumerate(plan.entity_features):
        cells[:, own] = comparable[:, k, np.newaxis]
    wrong = cells & differing(again.numeric[rows], seen)
    codes = categorical_codes(plan, again.rows[rows])
    seen_codes = decisions["categorical"].list.to_array(codes.shape[1]).to_numpy() if codes.size else codes
    wrong_codes = codes != seen_codes
    names = np.array(plan.numeric + plan.categorical)
    return Parity(
        decisions=len(rows),
        logs=int(visits.sum()),
        cells=int(cells.sum()) + codes.size,
        cells_differing=int(wrong.sum() + wrong_codes.sum()),
        revs_differing=int((comparable & moved).sum()),
        left_out=int((visits & ~comparable).sum()),
        gaps=again.gaps,
        features_differing=tuple(names[np.concatenate([wrong.any(axis=0), wrong_codes.any(axis=0)])].tolist()),
    )


# ---------------------------------------------------------------- folding again


@dataclass(frozen=True, slots=True)
class Recomputed:
    """The decisions of a collection, computed again under some spec.

    Attributes:
        rows: int64 (n, columns), the engine's rows.
        numeric: float32 (n, features), missing where it was missing for the model.
        findings: int64 (n, entities), what came of each entity when it was served: the bits of the kernel. An entity
            that was not served then is either absent or not.
        revs: int64 (n, entities), where it stands in the log; -1 where that is not known.
        seeded: bool (n, entities), whether that log begins with a backfilled base.
        incomplete: bool (n, entities), whether there should be features, but the log was not collected whole.
        gaps: entries that stand behind some that were not collected.
    """

    rows: Int64s
    numeric: NDArray[np.float32]
    findings: Int64s
    revs: Int64s
    seeded: NDArray[np.bool_]
    incomplete: NDArray[np.bool_]
    gaps: int


def recompute(collected: Collected, plan: Plan, currencies: CurrencyTable) -> Recomputed:
    """Fold the collected logs again under a spec.

    Every log has the entries, and the order, in which it was served. A spec that was never served uses the logs of the
    one that was, for each entity of the same name and key; each transaction's entry is completed from its request, and
    each label's. An entity that nobody kept a log of has its events in the order of arrival.
    """
    rows = _rows(collected.decisions, currencies)
    changes = _changes(collected, rows)
    amounts = {int(change.row[Column.ID]): int(change.row[Column.AMOUNT]) for change in changes}
    findings = _findings(collected, plan)
    numeric = np.full((len(rows), len(plan.numeric)), np.nan, np.float32)
    revs = np.full(findings.shape, -1, np.int64)
    seeded, incomplete = np.zeros(findings.shape, np.bool_), np.zeros(findings.shape, np.bool_)
    gaps = 0
    sources = [_source(collected, plan, k) for k in range(len(plan.entities))]
    if None in sources:
        numeric[:] = _fold_by_arrival(collected, plan, rows, changes)
    else:
        fold_transactions(rows, int(plan.tables.entities[-1, END_FEATURE]), plan.tables.features, numeric)
    for k, (source, own) in enumerate(zip(sources, plan.entity_features, strict=True)):
        if source is not None:
            again = _fold_logs(collected, plan, k, source, rows, amounts=amounts)
            missing = (findings[:, k] & (NOT_SERVED | ABSENT)) != 0
            numeric[:, own] = np.where(missing[:, np.newaxis], np.nan, again.features)
            revs[:, k], seeded[:, k] = again.revs, again.seeded
            incomplete[:, k] = (again.revs < 0) & ~missing
            gaps += again.gaps
    return Recomputed(rows, numeric, findings, revs, seeded, incomplete, gaps)


def _rows(decisions: pl.DataFrame, currencies: CurrencyTable) -> Int64s:
    """The engine's row of each decision, at its effective time."""
    return transaction_rows(decisions.with_columns(timestamp=pl.col("event_time")), currencies)


def _findings(collected: Collected, plan: Plan) -> Int64s:
    """By decision and entity, the kernel's finding; where the entity was not served, only whether it is named."""
    decisions = collected.decisions
    findings = np.empty((len(decisions), len(plan.entities)), np.int64)
    for k, entity in enumerate(plan.spec.entities):
        found = pl.when(pl.col(entity.key).is_null()).then(ABSENT).otherwise(0)
        for spec, served in collected.plans.items():
            if (place := _place(served, plan, k)) is not None:
                found = pl.when(pl.col("spec") == spec).then(pl.col("findings").list.get(place)).otherwise(found)
        findings[:, k] = decisions.select(found.cast(pl.Int64)).to_series().to_numpy()
    return findings


def _place(served: Plan, plan: Plan, k: int) -> int | None:
    """Where another plan has the entity of kind k of this one: the same name, told apart by the same field."""
    ours = plan.spec.entities[k]
    theirs = [(entity.name, entity.key) for entity in served.spec.entities]
    return theirs.index((ours.name, ours.key)) if (ours.name, ours.key) in theirs else None


def _source(collected: Collected, plan: Plan, k: int) -> str | None:
    """The spec whose logs of entity kind k are used: its own if there are any, else that which has most of them."""
    own = plan.spec.sha256[:8]
    counts = collected.entries.filter(pl.col("entity") == plan.entities[k])["spec"].value_counts(sort=True)
    specs = [spec for spec in counts["spec"] if _place(collected.plans[spec], plan, k) is not None]
    return own if own in specs else next(iter(specs), None)


@dataclass(frozen=True, slots=True)
class _Again:
    """One entity's part of `Recomputed`; its own features are float32 (n, own)."""

    features: NDArray[np.float32]
    revs: Int64s
    seeded: NDArray[np.bool_]
    gaps: int


def _fold_logs(
    collected: Collected, plan: Plan, k: int, source: str, rows: Int64s, *, amounts: Mapping[int, int]
) -> _Again:
    """Fold the logs of entity kind k that were kept under the spec `source`, for the decisions with these rows.

    `amounts` has by id what an entry that carries none is about.
    """
    kept = collected.plans[source]
    kept_k = kept.entities.index(plan.entities[k])
    whole, gaps = _whole(collected, source, plan.entities[k], with_seeds=source == plan.spec.sha256[:8])
    events = read_entries(kept, kept_k, b"".join(whole["entry"]))
    recorded = collected.decisions.select(
        key=pl.col(plan.spec.entities[k].key),
        id=pl.Series(rows[:, Column.ID]),
        recorded=pl.when(pl.col("spec") == source).then(pl.col("revs").list.get(kept_k, null_on_oob=True)),
    )
    places, decisions = _visits(whole.with_columns(id=pl.Series(events[:, Column.ID])), recorded)
    own_entries = events[places]
    events[places] = np.where(own_entries == MISSING, rows[decisions], own_entries)
    if not _carry_amounts(kept, kept_k):
        labels = np.flatnonzero(events[:, Column.KIND] == Kind.FRAUD_LABEL)
        events[labels, Column.AMOUNT] = [amounts.get(entry, 0) for entry in events[labels, Column.ID].tolist()]
    starts = np.flatnonzero(whole["index"].to_numpy() == 0)
    bases = whole["base"].gather(starts).to_list()
    folded = fold_logs(plan, k, events, np.append(starts, len(events)), bases)
    again = _Again(
        np.full((len(rows), folded.numeric.shape[1]), np.nan, np.float32),
        np.full(len(rows), -1, np.int64),
        np.zeros(len(rows), np.bool_),
        gaps,
    )
    visitors, first = np.unique(decisions, return_index=True)
    chosen = places[first]
    again.features[visitors] = folded.numeric[chosen]
    again.revs[visitors] = whole["rev"].to_numpy()[chosen]
    again.seeded[visitors] = (whole["base"].bin.size() > 0).to_numpy()[chosen]
    return again


def _carry_amounts(plan: Plan, k: int) -> bool:
    """Whether the labels in logs of entity kind k say what their transactions amount to."""
    bounds = plan.tables.entities[k, FIRST_LAYOUT:]
    first, last = bounds[Kind.FRAUD_LABEL - 1], bounds[Kind.FRAUD_LABEL]
    return bool((plan.tables.layout[first:last, 0] == Column.AMOUNT).any())


def _whole(collected: Collected, source: str, entity: str, *, with_seeds: bool) -> tuple[pl.DataFrame, int]:
    """The entries of one kind of entity up to the first gap of their log, and how many there are behind gaps.

    A log is there from its beginning if that is rev 0, or the rev of a base that it was given by a backfill.

    Returns:
        Columns of `ENTRY_SCHEMA`, index (in its log, from 0) and base (what the log begins with), in order.
    """
    mine = (pl.col("spec") == source) & (pl.col("entity") == entity)
    log = ["key", "generation"]
    seeds = collected.seeds.filter(mine & with_seeds).select(*log, pl.col("rev").alias("first"), "base")
    entries = (
        collected.entries.filter(mine)
        .with_columns(first=pl.col("rev").first().over(log), index=pl.int_range(pl.len()).over(log))
        .join(seeds, on=[*log, "first"], how="left", maintain_order="left")
    )
    begun = (pl.col("first") == 0) | pl.col("base").is_not_null()
    whole = entries.filter(begun & (pl.col("rev") == pl.col("first") + pl.col("index")))
    return whole.with_columns(pl.col("base").fill_null(b"")), len(entries) - len(whole)


def _visits(entries: pl.DataFrame, recorded: pl.DataFrame) -> tuple[Int64s, Int64s]:
    """Which entries are those of which decisions: their positions, the entry on record first where there are several.

    An id is twice in a log where a retry came after the log had forgotten it, and may be in several lives of a log.
    """
    theirs = entries.select("key", "id", "rev").with_row_index("entry")
    pairs = theirs.join(recorded.with_row_index("decision"), on=["key", "id"])
    other = pl.col("rev").ne_missing(pl.col("recorded"))
    pairs = pairs.sort("decision", other, "entry").cast({"entry": pl.Int64, "decision": pl.Int64})
    return pairs["entry"].to_numpy(), pairs["decision"].to_numpy()


def _fold_by_arrival(
    collected: Collected, plan: Plan, rows: Int64s, changes: Sequence["_Change"]
) -> NDArray[np.float32]:
    """Every feature of the decisions, as if the store had accepted everything in the order of arrival."""
    place = {name: index for index, name in enumerate(collected.decisions["transaction_id"])}
    known = [change for change in changes if change.transaction_id in place]
    events = np.concatenate([rows, np.array([change.row for change in known], np.int64).reshape(-1, len(Column))])
    about = [place[change.transaction_id] for change in known]
    for column in KEYS.values():
        events[len(rows) :, column] = rows[about, column]
    scored_ms = collected.decisions["scored_at"].dt.epoch("ms").to_numpy()
    order = np.argsort(np.append(scored_ms, [change.arrived_ms for change in known]), kind="stable")
    numeric = np.empty((len(events), len(plan.numeric)), np.float32)
    numeric[order] = fold_events(plan, events[order]).numeric
    return numeric[: len(rows)]


# ---------------------------------------------------------------- what became of transactions


@dataclass(frozen=True, slots=True)
class _Change:
    """What an outcome changed in the histories: when it arrived, and the engine's row without the entities."""

    transaction_id: str
    arrived_ms: int
    row: Int64s


@dataclass(frozen=True, slots=True)
class _Became:
    """What was reported.

    Attributes:
        labels: by transaction id, 1 for fraud and 0 for none; without those about which nobody said either.
        since_ms: by transaction id, when the label that is not 0 any more, or again, arrived.
        issuer_declined: transactions that the issuer declined.
        changes: in the order of arrival.
    """

    labels: Mapping[str, int]
    since_ms: Mapping[str, int]
    issuer_declined: frozenset[str]
    changes: Sequence[_Change]


def _became(outcomes: pl.DataFrame) -> _Became:
    """Take outcomes in, as the service did when they arrived."""
    dossiers: dict[str, Dossier] = {}
    labels: dict[str, int] = {}
    since_ms: dict[str, int] = {}
    changes: list[_Change] = []
    times = [pl.col(name).dt.epoch("ms") for name in ("event_time", "occurred_at", "reported_at", "arrived_at")]
    for name, amount_minor, kind, fraud, event_ms, occurred_ms, reported_ms, arrived_ms in outcomes.select(
        "transaction_id", "amount_minor", "type", "fraud", *times
    ).iter_rows():
        told = Outcome.model_construct(
            transaction_id=name,
            type=OutcomeType(kind),
            fraud=fraud,
            occurred_at_ms=occurred_ms,
            reported_at_ms=reported_ms,
        )
        before = dossiers.get(name, Dossier(event_ms, (), amount_minor or 0))
        after = before.take(told, arrival_ms=arrived_ms)
        if after.pending is not None:
            changes.append(_Change(name, arrived_ms, after.row(name)))
        if after.label != before.label:
            since_ms[name] = arrived_ms
        if label_of(told) is not None:
            labels[name] = after.label
        dossiers[name] = after.settled()
    declined = outcomes.filter(pl.col("type") == OutcomeType.ISSUER_DECLINED)["transaction_id"]
    return _Became(labels, since_ms, frozenset(declined), changes)


def _changes(collected: Collected, rows: Int64s) -> Sequence[_Change]:
    """What outcomes changed; one that was told before amounts were kept is about that of its decision's row."""
    decided = collected.decisions.select("transaction_id", decided_minor=pl.Series(rows[:, Column.AMOUNT]))
    outcomes = collected.outcomes.join(decided, on="transaction_id", how="left", maintain_order="left")
    return _became(outcomes.with_columns(amount_minor=pl.coalesce("amount_minor", "decided_minor"))).changes


def _labels(collected: Collected) -> tuple[NDArray[np.int8], Int64s]:
    """By decision, its label and when a fraud was reported (-1 for none).

    What was declined, by us or by the issuer, can never be disputed: taken as legitimate it would teach the model to
    approve what it stopped. Without a word about it, it has no label.
    """
    became = _became(collected.outcomes)
    labels = np.zeros(len(collected.decisions), np.int8)
    reported_at_ms = np.full(len(labels), -1, np.int64)
    pairs = collected.decisions.select("transaction_id", "decision").iter_rows()
    for row, (name, decision) in enumerate(pairs):
        if name in became.labels:
            labels[row] = became.labels[name]
            reported_at_ms[row] = became.since_ms[name] if labels[row] else -1
        elif decision == Decision.DECLINE.word or name in became.issuer_declined:
            labels[row] = NO_LABEL
    return labels, reported_at_ms
