"""The types of the interface: what a plain request looks like, what an appended token counts for."""

from __future__ import annotations

from math import isnan

import pytest

from fastsample.engines.base import Request, Sample, Traits
from fastsample.token_stats import NO_STATS, TokenStats


def test_a_plain_request_asks_for_no_path():
    """Whoever knows nothing of paths gets none."""
    r = Request((1, 2))
    assert (r.after, r.append, r.until, r.until_ids, r.legs, r.park) == (None, (), (), (), 1, False)
    assert not Traits("any", "any").parks
    s = Sample(r)
    assert (s.appended, s.ended_by, s.parked) == (0, None, None)


def test_appended_ids_become_a_tuple_and_text_is_refused():
    """A list as a tokenizer returns it; a string is not token ids."""
    assert Request((1,), append=[4, 5]).append == (4, 5)
    with pytest.raises(TypeError, match="append must be token ids, got str"):
        Request((1,), append="Wait")


def test_means_are_over_drawn_tokens():
    """Two appended tokens without statistics, then two drawn ones."""
    assert all(map(isnan, NO_STATS))
    drawn = [TokenStats(-1.0, -2.0, 3.0, 4.0), TokenStats(-3.0, -2.0, 5.0, 4.0)]
    sample = Sample(Request((1,)), tokens=[4, 5, 6, 7], stats=[NO_STATS, NO_STATS, *drawn], appended=2)
    assert sample.means == (-2.0, -2.0, 4.0, 4.0)
    assert Sample(Request((1,)), tokens=[4], stats=[NO_STATS], appended=1).means == (None,) * 4
