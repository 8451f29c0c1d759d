"""`bench-model` measures what there is to choose from, and chooses by what it measured."""

from pathlib import Path

import pytest

from service.bench_model import BATCH_SIZES, ONE_THREAD, Timing, Way, advice, bench_model
from service.model import MEASURED_ROWS, Provider, available_providers, thread_counts
from service.settings import Settings


def test_every_batch_size_is_timed_on_every_provider_or_it_says_why_not(small_bundle: Path) -> None:
    """Nobody chooses from a table with a silent gap."""
    page = bench_model(Settings(model_dir=small_bundle), seconds=0.2)
    rows = [cells for cells in map(str.split, page.splitlines()) if len(cells) == 7 and cells[0].isdigit()]
    there = len(thread_counts()) + len({*available_providers()} - {Provider.CPU})
    assert [int(batch) for batch, *_ in rows] == [*BATCH_SIZES] * there
    assert all(float(cell.replace(",", "")) > 0 for cells in rows for cell in cells)
    for provider in {Provider.CUDA, Provider.TENSORRT} - {*available_providers()}:
        assert f"Not measured: provider {provider} was asked for" in page
    assert "Choose TOUCHSTONE_PROVIDER=" in page


@pytest.mark.parametrize(
    ("other", "other_us", "expected"),
    [
        (Way(Provider.CUDA, 1), 50.0, "TOUCHSTONE_PROVIDER=cuda and TOUCHSTONE_INFERENCE_THREADS=1"),
        (Way(Provider.CUDA, 1), 70.0, "TOUCHSTONE_PROVIDER=cpu and TOUCHSTONE_INFERENCE_THREADS=1"),
        (Way(Provider.CPU, 4), 30.0, "TOUCHSTONE_PROVIDER=cpu and TOUCHSTONE_INFERENCE_THREADS=4"),
        (Way(Provider.CPU, 4), 99.0, "TOUCHSTONE_PROVIDER=cpu and TOUCHSTONE_INFERENCE_THREADS=1"),
    ],
)
def test_what_costs_a_second_device_must_be_half_as_fast_again(other: Way, other_us: float, expected: str) -> None:
    """One thread of a CPU takes 100 µs; below two thirds of that the other is chosen."""
    timings = {
        ONE_THREAD: {MEASURED_ROWS: Timing(100.0, 200.0, 320_000.0)},
        Way(Provider.CPU, 1, bound=False): {MEASURED_ROWS: Timing(1.0, 1.0, 1.0)},
        other: {MEASURED_ROWS: Timing(other_us, 200.0, 320_000.0)},
    }
    assert expected in " ".join(advice(timings))


def test_a_timing_says_half_ninety_nine_of_a_hundred_and_the_rate() -> None:
    """101 rounds of 0 to 100 µs over 8 rows: 50, 99, and 8 rows in 50 µs."""
    timing = Timing.of([round_us * 1e-6 for round_us in range(101)], rows=8)
    assert (round(timing.p50_us, 6), round(timing.p99_us, 6), round(timing.rows_per_second)) == (50, 99, 160_000)
