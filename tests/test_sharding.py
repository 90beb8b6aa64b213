"""Per-image work: which items are spread over, and which output of an item is asked for."""

from __future__ import annotations

from pathlib import Path

from stages.core.sharding import first_missing, spread


def test_a_few_of_many_lie_at_equal_steps_from_the_first() -> None:
    assert spread(range(10), 3) == range(0, 9, 3)
    assert spread("abc", 5) == "abc" and spread("abcd", 3) == "abc"
    assert len(spread("abc", 0)) == 0 and len(spread("", 4)) == 0


def test_a_single_lost_output_is_the_one_that_is_asked_for(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("maps", "confidence", "mask")]
    assert first_missing(paths) == paths[0]
    for path in paths:
        path.touch()
    assert first_missing(paths) == paths[-1]
    paths[1].unlink()
    assert first_missing(paths) == paths[1]
