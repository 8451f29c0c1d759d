"""The command `python -m training`: from a simulation or a running service to a model that has been proven."""

import json
import math
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx
import polars as pl
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.bundle import Bundle
from service.currency import CurrencyTable
from service.errors import TouchstoneError
from service.features.plan import Plan
from training.collect import collect as collect_once
from training.collected import compare as compare_served
from training.collected import read_collected, select
from training.comparison.config import read_contest
from training.comparison.contest import Contest, play
from training.comparison.processes import play_in_processes
from training.comparison.published import PUBLISHED, handbook_network, run_published
from training.comparison.records import Records
from training.comparison.report import render
from training.comparison.summary import document, summarise
from training.comparison.tables import headings, lines, title
from training.config import FitConfig, read_config
from training.convert import convert as convert_pieces
from training.datasets.formats import Format, pieces, read
from training.evaluate import evaluate as evaluate_bundle
from training.examples import Examples, declare_reports
from training.fit import fit as fit_bundle
from training.focal_study import RARITIES, StudyConfig, run_study
from training.focal_tables import TABLES_FILE, markdown, tables
from training.replay import replay as replay_to_service
from training.requests import collected_lines, request_lines
from training.simulate import SimulationConfig, write_simulation
from training.source import open_source
from training.stream import stream

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Train, measure and prove fraud models. Every command takes --help.",
)  # fmt: skip
console = Console(stderr=True)
WORKERS = os.cpu_count() or 1
MATURITY_DAYS = 60  # of collected transactions: how old one is once silence means legitimate
TAILS_EVERY_SECONDS = 3600  # collect --follow copies every live log that often: it reads the whole store

Data = Annotated[
    Path,
    typer.Option(
        help="The data set: a canonical Parquet file, the directory of a collection, or what was published: a CSV file "
        "or the directory that it is in.",
        exists=True,
    ),
]
DataFormat = Annotated[Format, typer.Option("--format", help="How the data set is written (docs/datasets.md).")]
LabelDelay = Annotated[float, typer.Option(min=0, help="Days from a fraud to its report, where the data does not say.")]
Moment = Annotated[datetime | None, typer.Option("--from", help="The first moment that counts, UTC.")]


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    transactions: Annotated[int, typer.Option(min=1, help="Rows, exactly.")] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 7,
    days: Annotated[int, typer.Option(min=1, help="Length of the period.")] = 120,
    prevalence: Annotated[float, typer.Option(min=0, max=0.2, help="Share of rows that are fraud.")] = 0.001,
    start: Annotated[datetime, typer.Option(help="The first moment, UTC.")] = datetime(2025, 1, 1),  # noqa: DTZ001 - typer reads naive times; UTC is set below
) -> None:
    """Draw transactions with six kinds of fraud from a seed (docs/simulator.md)."""
    try:
        config = SimulationConfig(
            transactions=transactions, seed=seed, days=days, prevalence=prevalence, start=start.replace(tzinfo=UTC)
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with _bar("drawing", transactions) as advance:
        write_simulation(config, out, progress=advance)
    seconds = time.perf_counter() - began
    console.print(f"wrote {transactions:,} transactions to {out} ({transactions / seconds:,.0f} per second)")


@app.command()
def convert(
    data: Data,
    data_format: DataFormat,
    out: Annotated[Path, typer.Option(help="The canonical Parquet file to write.")],
) -> None:
    """Write a published data set as a canonical one, however large it is (docs/datasets.md)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    found: Counter[str] = Counter()
    with console.status("reading") as status:

        def tell(what: str, count: int) -> None:
            found[what] += count
            status.update(f"read {found['read']:,}")

        table = pieces(data, data_format, left_out=partial(tell, "left out"))
        count = convert_pieces(table, out, source=str(data), tell=partial(tell, "read"))
    console.print(f"wrote {count:,} transactions to {out}")
    if found["left out"]:
        console.print(f"left out {found['left out']:,} rows that are no authorisations (docs/datasets.md)")


@app.command()
def fit(
    data: Data,
    config: Annotated[Path, typer.Option(help="What to fit; see training/configs.", exists=True)],
    out: Annotated[Path, typer.Option(help="The directory of the model's versions.")],
    data_format: DataFormat = Format.CANONICAL,
    source: Annotated[str, typer.Option(help="What the data are, in words, for report and model card.")] = "",
    label_maturity_days: Annotated[
        float, typer.Option(min=0, help="Collected data: how old a transaction is once silence means legitimate.")
    ] = MATURITY_DAYS,
    label_delay: Annotated[
        float | None,
        typer.Option(min=0, help="Days from a fraud to its report, for the data and the windows that wait for labels."),
    ] = None,
) -> None:
    """Fit a network, calibrate it, and leave a bundle that the service's own loader has proven."""
    settings = read_config(config)
    if label_delay is not None:
        settings = settings.with_label_delay(label_delay)
    began = time.perf_counter()

    def say(what: str) -> None:
        console.print(f"[{time.perf_counter() - began:6.1f} s] {what}", markup=False, highlight=False)

    described = source or f"the data set {data.name} in the {data_format} format"
    with (
        _examples(data, data_format, settings, label_maturity_days, out, say) as examples,
        _bar("epochs", settings.network.epochs) as advance,
    ):
        fit_bundle(
            examples,
            settings,
            out,
            source=described,
            command=_command(),
            say=say,
            tick=lambda: advance(1),
        )


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Option(help="The bundle's directory.", exists=True)],
    data: Data,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    data_format: DataFormat = Format.CANONICAL,
    label_delay: LabelDelay = 7,
    start: Moment = None,
) -> None:
    """Measure a bundle on a data set; rows before --from give history only."""
    judged = Bundle.load(bundle)
    moment = None if start is None else start.replace(tzinfo=UTC)
    with _streamed(data, data_format, judged.plan, judged.currencies, label_delay, None, console.print) as examples:
        figures = evaluate_bundle(examples, judged, start=moment)
    _print_figures("figures", [(name, f"{value:,.6g}") for name, value in figures.items()])
    if json_path is not None:
        json_path.write_text(json.dumps(figures, indent=1) + "\n")


@app.command()
def replay(
    data: Data,
    bundle: Annotated[Path, typer.Option(help="The bundle that the service serves.", exists=True)],
    start: Annotated[datetime, typer.Option("--from", help="Compare from here on, UTC; earlier rows are history.")],
    url: Annotated[str, typer.Option(help="A freshly started service.")] = "http://127.0.0.1:8000",
    limit: Annotated[int, typer.Option(min=1, help="Transactions to compare.")] = 20_000,
    history_from: Annotated[datetime | None, typer.Option(help="Leave out everything before, UTC.")] = None,
    data_format: DataFormat = Format.CANONICAL,
    label_delay: LabelDelay = 7,
) -> None:
    """Send a data set to a running service as it happened, and compare every feature and probability with offline."""
    frame = _load(data, data_format, label_delay)
    if history_from is not None:
        frame = frame.filter(pl.col("timestamp") >= history_from.replace(tzinfo=UTC))
    moment = start.replace(tzinfo=UTC)
    expected = int((frame["timestamp"] < moment).sum()) + limit
    with _bar("sending", expected) as advance, httpx.Client(base_url=url, timeout=60) as client:
        found = replay_to_service(frame, Bundle.load(bundle), client, start=moment, limit=limit, progress=advance)
    _print_figures(
        "online against offline",
        [
            ("transactions sent as history", f"{found.history:,}"),
            ("outcomes sent", f"{found.outcomes:,}"),
            ("transactions compared", f"{found.transactions:,}"),
            ("feature cells compared", f"{found.cells:,}"),
            ("feature cells that differ", f"{found.cells_differing:,}"),
            ("probabilities that differ", f"{found.probabilities_differing:,}"),
            *((f"decided: {word}", f"{count:,}") for word, count in sorted(found.decisions.items())),
        ],
    )
    if not found.equal:
        console.print(f"features that differ: {', '.join(found.features_differing)}")
        raise typer.Exit(1)


@app.command()
def collect(
    url: Annotated[
        str, typer.Option(envvar="TOUCHSTONE_STORE_URL", help="The store of the service: redis://, redis+cluster://, …")
    ],
    bundle: Annotated[list[Path], typer.Option(help="The served bundle, and the prepared one if any.", exists=True)],
    out: Annotated[Path, typer.Option(help="The directory of the collection: one for each store.")],
    follow: Annotated[bool, typer.Option("--follow/--once", help="Go on until SIGTERM or Ctrl-C.")] = False,  # noqa: FBT002 - a flag of the command line
    every_seconds: Annotated[float, typer.Option(min=1, help="With --follow: between two looks.")] = 60,
    keep_hours: Annotated[float, typer.Option(min=0, help="How long the store keeps what was collected.")] = 24,
) -> None:
    """Move what a service decided, and was told, from its Redis into Parquet files (docs/collecting.md)."""
    bundles = [Bundle.load(path) for path in bundle]
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    found: Counter[str] = Counter()
    copied_at = -math.inf
    with open_source(url) as source, console.status("collecting") as status:

        def tell(what: str, count: int) -> None:
            status.update(f"collecting: {what} {count:,}")

        while True:
            with_tails = time.monotonic() - copied_at >= TAILS_EVERY_SECONDS
            copied_at = time.monotonic() if with_tails else copied_at
            forget_before_ms = round((time.time() - 3600 * keep_hours) * 1000)
            found += collect_once(
                source, bundles, out, forget_before_ms=forget_before_ms, with_tails=with_tails, tell=tell
            )
            if not follow or ended.wait(every_seconds):
                break
    _print_figures("collected", [(name, f"{count:,}") for name, count in sorted(found.items())])


@app.command()
def parity(
    data: Annotated[Path, typer.Option(help="The directory of a collection.", exists=True)],
    bundle: Annotated[Path, typer.Option(help="The bundle that was served.", exists=True)],
) -> None:
    """Compute every collected decision again from the histories, and compare each cell with what was served."""
    served = Bundle.load(bundle)
    collected = read_collected(data)
    found = compare_served(collected, served.plan, served.currencies)
    _print_figures(
        "served against computed again",
        [
            ("decisions", f"{found.decisions:,}"),
            ("visits to a log", f"{found.logs:,}"),
            ("visits left out", f"{found.left_out:,}"),
            ("cells compared", f"{found.cells:,}"),
            ("cells that differ", f"{found.cells_differing:,}"),
            ("places in a log that differ", f"{found.revs_differing:,}"),
            ("entries behind a gap", f"{found.gaps:,}"),
            ("places told in two ways", f"{collected.contradictions:,}"),
        ],
    )
    if not found.equal:
        console.print(f"features that differ: {', '.join(found.features_differing)}")
        raise typer.Exit(1)


@app.command()
def requests(
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write: one JSON object per line.")],
    data_format: DataFormat = Format.CANONICAL,
    label_delay: LabelDelay = 7,
) -> None:
    """Write a data set as the requests that a client would have sent, for `python -m service backfill`."""
    if data_format is Format.COLLECTED:
        collected = read_collected(data)
        count, lines = len(collected.decisions), collected_lines(collected.decisions, collected.outcomes)
    else:
        frame = _load(data, data_format, label_delay)
        count, lines = len(frame), request_lines(frame)
    with out.open("wb") as file, _bar("writing", count) as advance:
        for line in lines:
            file.write(line + b"\n")
            advance(1)


@app.command()
def compare(
    data: Data,
    config: Annotated[Path, typer.Option(help="Who takes part and on which rows (docs/comparison.md).", exists=True)],
    out: Annotated[Path, typer.Option(help="The directory of the contest; what is done there is not done again.")],
    data_format: DataFormat = Format.CANONICAL,
    only: Annotated[list[str] | None, typer.Option(help="A contender; may be given repeatedly. None: all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, each with its copy of the features.")] = 1,
    source: Annotated[str, typer.Option(help="What the data are, in words, for the report.")] = "",
) -> None:
    """Fit networks and boosted trees on the same rows, with the same care, and print how they compare."""
    rules, settings = read_contest(config)
    with _examples(data, data_format, settings, MATURITY_DAYS, out, console.print) as examples:
        contest = Contest(rules, settings, settings.read_plan(), examples)
        records = Records(out, contest.document())
        with _bar("fits", contest.fits(only or [])) as advance:
            if jobs == 1:
                play(contest, records, only=only or [], clock=time.perf_counter, tick=advance)
            else:
                play_in_processes(contest, out, only=only or [], jobs=jobs, tick=advance)
                records = Records(out, contest.document())
    outcomes = summarise(rules, records.trials, records.runs)
    (out / "summary.json").write_text(json.dumps(document(outcomes), indent=1) + "\n", encoding="utf-8")
    described = source or f"the data set {data.name} in the {data_format} format"
    (out / "report.html").write_text(
        render(outcomes, records.runs, source=described, command=_command()), encoding="utf-8"
    )
    for outcome in outcomes:
        table = Table(*headings(outcome), title=title(outcome))
        for line in lines(outcome):
            table.add_row(*line)
        Console().print(table)


@app.command("handbook")
def handbook_protocol(
    data: Data,
    config: Annotated[Path, typer.Option(help="Loss and network.", exists=True)],
    label_delay: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Days until a fraud is known; several show what faster labels are worth. 7 if none."),
    ] = None,
    fit_days: Annotated[float, typer.Option(min=1, help="Length of the fit, which ends where the book's does.")] = 7,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Run the Fraud Detection Handbook's published protocol and print the book's figures beside ours."""
    settings = read_config(config)
    table = Table(title=f"{fit_days:g} days of fitting, 7 of delay, 7 of testing")
    for heading in ("", "average precision", "AUC", "card precision@100"):
        table.add_column(heading)
    document = {}
    for days in label_delay or [7.0]:
        told = settings.with_label_delay(days)
        plan = told.read_plan()
        network = handbook_network(told, plan.entity_features)
        with _streamed(data, Format.HANDBOOK, plan, told.read_currencies(), days, None, console.print) as examples:
            folds = run_published(examples, network, fit_days=fit_days, seed=told.seed, say=console.print)
        ours = [(fold.average_precision, fold.roc_auc, fold.card_precision_at_100) for fold in folds]
        mean = tuple(sum(figures) / len(ours) for figures in zip(*ours, strict=True))
        names = [f"fraud known after {days:g} days, fit until {fold.fit_until:%Y-%m-%d}" for fold in folds]
        for name, figures in [*zip(names, ours, strict=True), (f"… mean of {len(folds)}", mean)]:
            table.add_row(name, *(f"{value:.4f}" for value in figures))
        document[f"{days:g}"] = {"mean": mean, "folds": dict(zip(names, ours, strict=True))}
    for name, figures in PUBLISHED.items():
        table.add_row(name, *(f"{value:.4f}" for value in figures))
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(document, indent=1) + "\n")


@app.command("focal-study")
def focal_study(
    data: Data,
    config: Annotated[Path, typer.Option(help="Features and network; its loss and sampler are not read.", exists=True)],
    out: Annotated[Path, typer.Option(help="The directory of the runs; what is there already is not fitted again.")],
    test_from: Annotated[list[datetime], typer.Option(help="When a test week begins, UTC. May be given repeatedly.")],
    data_format: DataFormat = Format.CANONICAL,
    one_in: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Legitimate rows per fraud in the fit rows; 100, 1000 and 5000 if left out."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Fits of each loss: other frauds left out, other weights.")] = 2,
    fit_days: Annotated[float, typer.Option(min=0, help="Length of the fit rows.")] = 28,
) -> None:
    """Measure where each loss spends its gradient and what that buys (docs/focal-loss.md)."""
    settings = read_config(config)
    plan = settings.read_plan()
    study = StudyConfig(
        settings.network,
        tuple(moment.replace(tzinfo=UTC) for moment in test_from),
        fit_days=fit_days,
        gap_days=settings.label_delay_days,
        one_in=tuple(one_in or RARITIES),
        seeds=seeds,
        threads=settings.threads,
        device=settings.device,
    )
    with (
        _examples(data, data_format, settings, MATURITY_DAYS, out, console.print) as examples,
        _bar("fits", study.runs) as advance,
    ):
        sheets = tables(run_study(examples, plan.entity_features, study, out, tick=advance))
    for sheet in sheets:
        table = Table(*sheet.headings, title=sheet.title)
        for row in sheet.rows:
            table.add_row(*row)
        Console().print(table)
    (out / TABLES_FILE).write_text(markdown(sheets), encoding="utf-8")


def main() -> None:
    """Run one command; what went wrong is one line, not a trace."""
    try:
        app()
    except (TouchstoneError, httpx.HTTPError, OSError) as error:
        console.print(f"{type(error).__name__}: {error}", markup=False, highlight=False)
        sys.exit(1)


@contextmanager
def _examples(
    data: Path,
    data_format: Format,
    settings: FitConfig,
    label_maturity_days: float,
    home: Path,
    say: Callable[[str], None],
) -> Iterator[Examples]:
    """What there is to learn from, under the configuration's spec and rates."""
    if data_format is Format.COLLECTED:
        yield _collected_examples(data, settings, label_maturity_days, say)
        return
    plan, currencies, delay = settings.read_plan(), settings.read_currencies(), settings.label_delay_days
    with _streamed(data, data_format, plan, currencies, delay, home, say) as examples:
        yield examples


@contextmanager
def _streamed(
    data: Path,
    data_format: Format,
    plan: Plan,
    currencies: CurrencyTable,
    label_delay_days: float,
    home: Path | None,
    say: Callable[[str], None],
) -> Iterator[Examples]:
    """Examples of a data set of any size, in files in `home` for as long as they are used; None: where TMPDIR is."""
    if home is not None:
        home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".examples-") as scratch:
        yield stream(
            data, data_format, plan, currencies, Path(scratch),
            label_delay_days=label_delay_days, threads=WORKERS, say=say,
        )  # fmt: skip


def _collected_examples(
    data: Path, settings: FitConfig, label_maturity_days: float, say: Callable[[str], None]
) -> Examples:
    plan, collected = settings.read_plan(), read_collected(data)
    say(f"folding the histories of {len(collected.decisions):,} decisions through {len(plan.numeric)} features")
    found = select(collected, plan, settings.read_currencies(), label_maturity_days=label_maturity_days)
    say(
        f"left out {found.young:,} that are too young, {found.unlabelled:,} that were declined and "
        f"{found.incomplete:,} without a whole history"
    )
    return found.examples


def _load(data: Path, data_format: Format, label_delay_days: float) -> pl.DataFrame:
    return declare_reports(read(data, data_format), label_delay_days)


def _command() -> str:
    """This command as one would type it again."""
    return shlex.join(["python", "-m", "training", *sys.argv[1:]])


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields what advances it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def _print_figures(title: str, figures: list[tuple[str, str]]) -> None:
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures:
        table.add_row(name, value)
    Console().print(table)


if __name__ == "__main__":
    main()
