"""The guard of what the fold and the decoder cost, in instructions."""

import shutil

import pytest

from benchmarks.instructions.count import CountingFailed, compare, count, counted_with, recorded

COUNTED = {"fold": 1_000.0, "decode": 500.0}


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_neither_the_fold_nor_the_decoder_became_a_tenth_dearer() -> None:
    """Counted by callgrind over fixed work, each figure is at most a tenth above the recorded one."""
    figures, versions = recorded()
    dearer = [str(finding) for finding in compare(count(), figures) if finding.growth > 0.10]
    assert not dearer, f"recorded with {versions}, counted with {counted_with()}"


def test_growth_is_told_by_more_than_a_tenth() -> None:
    """What grew by 11 % costs more, by less not; what fell by 11 % wants to be recorded."""
    grown, same = compare({"fold": 1_110.0, "decode": 549.0}, COUNTED)
    assert (grown.growth > 0.10, same.growth > 0.10) == (True, False)
    assert "costs more" in str(grown)
    assert "as before" in str(same)
    assert "record it" in str(compare(COUNTED | {"fold": 890.0}, COUNTED)[0])


def test_other_jobs_than_recorded_are_not_compared() -> None:
    """A job that was added or renamed needs a record first."""
    with pytest.raises(CountingFailed, match="record anew"):
        compare({"fold": 1.0}, COUNTED)
