"""The search for a contender's settings: as many trials for everyone, on folds that are earlier than every test."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from training.comparison.contender import Choice, Contender, Point, Space
from training.optimise import Part


@dataclass(frozen=True, slots=True)
class Validation:
    """The rows of one validation fold."""

    fit: Part
    watched: Part


@dataclass(frozen=True, slots=True)
class Attempt:
    """Settings and how good they were."""

    choice: Choice
    average_precision: float


def propose(contender: Contender, before: Sequence[Attempt], *, seed: int) -> Choice:
    """What to try next: the defaults, then what Optuna's tree of Parzen estimators thinks of (Bergstra et al. 2011).

    A function of its arguments alone, so that a search that was interrupted goes on as if it had not been. The first
    ten proposals are random.
    """
    if not before:
        return contender.defaults
    import optuna  # noqa: PLC0415 - half a second that only a contest needs

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce each study
    space = dict(contender.space())
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed + len(before)))
    for attempt in before:
        if _is_within(attempt.choice, space):
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(attempt.choice), distributions=space, value=attempt.average_precision
                )
            )
    choice: Choice = study.ask(space).params
    return choice


def best_point(contender: Contender, choice: Choice, folds: Sequence[Validation], *, seed: int) -> Point:
    """Where the curve of some settings, averaged over the folds, is highest.

    One number of steps for all folds: the best of each would be a choice made on what it is judged by.
    """
    curves = [contender.curve(fold.fit, fold.watched, choice, seed=seed) for fold in folds]
    best, since = Point(0, -1.0), 0
    for point in _mean(curves):
        since = 0 if point.average_precision > best.average_precision else since + 1
        best = point if since == 0 else best
        if since >= contender.patience:
            break
    assert best.steps > 0, "a curve has no point"
    return best


def _mean(curves: Sequence[Iterator[Point]]) -> Iterator[Point]:
    """The curves side by side, grown together, so that none is grown further than it is looked at."""
    for points in zip(*curves, strict=True):
        steps = {point.steps for point in points}
        assert len(steps) == 1, steps
        yield Point(steps.pop(), fmean(point.average_precision for point in points))


def _is_within(choice: Choice, space: Space) -> bool:
    """Whether a search over this space could have proposed it; configured settings may lie outside."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: PLC0415 - see above

    def holds(name: str, value: object) -> bool:
        match space[name]:
            case CategoricalDistribution() as words:
                return value in words.choices
            case FloatDistribution() | IntDistribution() as span:
                return isinstance(value, int | float) and span.low <= value <= span.high
            case other:
                raise AssertionError(other)

    return all(holds(name, value) for name, value in choice.items())
