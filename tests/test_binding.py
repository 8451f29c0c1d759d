"""Bindings give what the session gives, wherever its memory is."""

from collections.abc import Callable

import pytest

from service.binding import MAX_BOUND_ROWS, Bindings, multiple_of_four, power_of_two
from service.bundle import Bundle
from service.model import OnnxModel
from service.settings import SHIPPED_MODELS


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(next(SHIPPED_MODELS.iterdir()))


@pytest.mark.parametrize("captures", [False, True])
@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("size_of", [multiple_of_four, power_of_two])
def test_every_way_to_bind_gives_the_same_bits(
    bundle: Bundle, size_of: Callable[[int], int], *, staged: bool, captures: bool
) -> None:
    """Copies on a device, sizes for captured graphs and the names of these: all of it works on the CPU as well."""
    session, golden = OnnxModel.load(bundle).session, bundle.golden
    plain, _ = session.run(("logit", "probability"), {"numeric": golden.numeric, "categorical": golden.categorical})
    widths = golden.numeric.shape[1], golden.categorical.shape[1]
    bindings = Bindings(session, *widths, staged=staged, size_of=size_of, captures=captures)
    for rows in (3, 1, 64, 9, 3, 256, 0):
        logit, _ = bindings.run(golden.numeric[:rows], golden.categorical[:rows])
        assert (logit == plain[:rows]).all()


def test_a_size_of_batch_holds_its_rows_and_fits_the_memory() -> None:
    """A multiple of 4 wastes at most 3 rows; a power of two is one of few sizes."""
    rows = range(MAX_BOUND_ROWS + 1)
    fours, powers = [multiple_of_four(count) for count in rows], [power_of_two(count) for count in rows]
    assert all(count <= size <= MAX_BOUND_ROWS for sizes in (fours, powers) for count, size in enumerate(sizes))
    assert all(size % 4 == 0 and size - count <= 3 for count, size in enumerate(fours) if count)
    assert sorted(set(powers)) == [4, 8, 16, 32, 64, 128, 256, 512, 1024]


def test_warming_up_runs_every_size_once(bundle: Bundle) -> None:
    """The first request of each size finds its graph captured."""
    session, golden = OnnxModel.load(bundle).session, bundle.golden
    bindings = Bindings(session, golden.numeric.shape[1], golden.categorical.shape[1], size_of=power_of_two)
    bindings.warm_up()
    assert list(bindings._sizes) == [4, 8, 16, 32, 64, 128, 256, 512, 1024]
