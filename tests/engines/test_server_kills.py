"""One of two servers is killed ten times in the middle of a run: the results are those of a run without."""

from __future__ import annotations

import threading
import time

import pytest
from hostile import Hostile

from fastsample import Settings
from fastsample.engines.openai.engine import ServerEngine
from fastsample.engines.openai.pool import Patience
from fastsample.solving.solve import solve_many
from fastsample.strategies.question import Question

KILLS, LENGTH = 10, 12
PATIENCE = Patience(connect=2, idle=2, retries=50, again=(0.001, 0.01), rest=(0.02, 0.05))


def repeating():
    """Draws by the sample's stream, as a vLLM with our draw in it: the same sample has the same text anywhere."""
    return Hostile(
        pause=0.01, length=LENGTH, owner="vllm", has_draw=True, serial=lambda body: body["vllm_xargs"]["fs_stream"] % 5
    )


def answers(servers, questions, rule):
    """(results by id, tokens that were lost with a server)"""
    settings = Settings((0.4, 0.8), 8, rule, max_new_tokens=40)
    with ServerEngine([s.url for s in servers], patience=PATIENCE, slots=48) as engine:
        found = solve_many(
            None, engine.tokenizer, questions, settings=settings, engine=engine,
            extractor=lambda text: text.partition(":")[0],
        )  # fmt: skip
        return {r.id: r for r in found}, engine.wasted_tokens


class Killer(threading.Thread):
    """Kills a server while it writes, and starts it again."""

    def __init__(self, server):
        super().__init__()
        self.server, self.kills = server, 0

    def run(self):
        while self.kills < KILLS:
            deadline = time.monotonic() + 20
            while self.server.open < 5 and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(0.03)
            self.server.__exit__()
            self.kills += 1
            time.sleep(0.05)
            self.server.__enter__()


@pytest.mark.parametrize("rule", ["majority", "ahead:k=2"])
def test_ten_kills_change_no_result(rule):
    """Of every question the answer, what was counted and, in a full vote, every text; the other server is untouched."""
    with repeating() as one, repeating() as other:
        killer, asked = Killer(one), []

        def questions():
            while killer.is_alive() or len(asked) < 20:
                asked.append(Question(f"What is {len(asked)} + 1?", str(len(asked))))
                yield asked[-1]

        killer.start()
        found, wasted = answers([one, other], questions(), rule)
        killer.join()
        assert (killer.kills, len(found)) == (KILLS, len(asked))
        assert wasted > 0
        assert min(len(one.asked), len(other.asked)) > len(asked)
    with repeating() as one, repeating() as other:
        expected, none = answers([one, other], asked, rule)
    assert none == 0
    for id_, result in expected.items():
        mine = found[id_]
        assert mine.error is None
        assert (mine.answer, mine.status, mine.counted, mine.reason) == (
            result.answer, result.status, result.counted, result.reason
        )  # fmt: skip
        if rule == "majority":
            assert [s.text for s in mine.samples] == [s.text for s in result.samples]
            assert (mine.votes, mine.tokens) == (result.votes, result.tokens)
    assert len({r.answer for r in expected.values()}) > 1
