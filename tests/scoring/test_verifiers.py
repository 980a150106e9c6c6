"""Scorers of answers, and the two child processes that keep what a model wrote at arm's length."""

from __future__ import annotations

import threading
from time import perf_counter

import pytest

from fastsample.scoring.base import Candidate, numbers_of
from fastsample.scoring.sandbox import code_of
from fastsample.scoring.verifiers import ExactMatch, Keys, PythonTests, scorer_of


def score(scorer, answer, text=""):
    ((found,),) = numbers_of(scorer, [Candidate("q", text, answer)])
    return found


ADD = "assert add(1, 2) == 3"


@pytest.mark.parametrize(("answer", "wanted"), [("1/2", 1.0), ("50%", 1.0), ("0.05", 0.0), (None, 0.0)])
def test_exact_match(answer, wanted):
    """Equality in canonical form."""
    assert score(ExactMatch("0.5"), answer) == wanted


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("def add(a, b): return a + b", 1.0),
        ("Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", 1.0),
        ("def add(a, b): return a - b", 0.0),
        ("def add(a, b) return", 0.0),
        ("import sys; sys.exit(0)", 0.0),  # leaving before the tests does not pass them
        ("import os; os._exit(0)", 0.0),
        ("x = 'a' * (1 << 34)\ndef add(a, b): return a + b", 0.0),  # memory
        ("open('big', 'wb').write(b'x' * (1 << 22))\ndef add(a, b): return a + b", 0.0),  # file size
    ],
)
def test_python_tests(code, wanted):
    """Code passes only by running through the tests to their end, within its limits."""
    assert score(PythonTests(ADD), None, code) == wanted


def test_each_question_s_own_key():
    """In canonical form; a question without a key is refused, and so is a scorer that has none."""
    scorer = Keys({"q": "1/2", "open": None})
    assert [score(scorer, answer) for answer in ("0.5", "2", None)] == [1.0, 0.0, 0.0]
    assert scorer.bound(None, None) is scorer
    with pytest.raises(ValueError, match="no key for 'open'"):
        scorer.score([Candidate("open", "", "1")])
    with pytest.raises(ValueError, match="the scorer key is for evaluate"):
        scorer_of("key").bound(None, None)


def test_endless_code_ends():
    """An endless loop, with a child of its own, is ended after its time."""
    start = perf_counter()
    assert score(PythonTests(ADD, seconds=0.5), None, "import os\nos.fork()\nwhile True: pass") == 0
    assert perf_counter() - start < 3


def test_code_of_takes_the_last_block():
    """Text around the code is not run."""
    assert code_of("a\n```\n1\n```\nb\n```py\n2\n```") == "2\n"
    assert code_of("plain") == "plain"


def test_scorers_by_name(tmp_path):
    """Each form of a name, and a refusal for anything else."""
    tests = tmp_path / "t.py"
    tests.write_text(ADD)
    assert score(scorer_of("exact:1/2"), "0.5") == 1
    assert score(scorer_of(f"python:{tests}"), None, "def add(a, b): return a + b") == 1
    assert score(scorer_of(lambda question, answer, text: len(text)), None, "four") == 4
    for name in ("exact:1/2", f"python:{tests}", "mean-logprob", "builtins:max", "math:2"):
        assert scorer_of(name).name == name
    for bad in ("best", "exact:", f"python:{tmp_path / 'none.py'}", "os:no_such"):
        with pytest.raises(ValueError, match=r"scorer|read|os:no_such"):
            scorer_of(bad)


@pytest.mark.parametrize(("scores", "sentence"), [([1.0], "for each of 2 samples"), ([1.0, float("nan")], "finite")])
def test_what_a_scorer_returns_is_looked_at(scores, sentence):
    """A wrong count would score the wrong samples, a NaN would win or lose every comparison: both are refused."""

    class Broken:
        name = "broken"

        def score(self, candidates):
            return scores

    with pytest.raises(ValueError, match=f"{sentence}.*broken"):
        numbers_of(Broken(), [Candidate("q", "", "1")] * 2)


class TestMathVerify:
    """Math-Verify in its child process."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("math_verify", reason="math-verify is not installed")

    @pytest.mark.parametrize(
        ("key", "answer", "equal"),
        [
            (r"2\sqrt{3}", r"\sqrt{12}", True),
            ("x^2+1", "1+x^2", True),
            (r"\{1,2\}", r"\{2,1\}", True),
            ("3", "4", False),
            ("(" * 500, "3", False),
            ("3", "9" * 100_000, False),
        ],
    )
    def test_compare(self, key, answer, equal):
        """Equal mathematical objects in different forms; nonsense is unequal, not an error."""
        from fastsample.answers.math_verify import are_equal

        assert are_equal(key, answer, seconds=20) is equal

    def test_a_power_tower_is_given_up_and_the_next_answer_is_read(self):
        """The child is ended in the middle of 9**9**9**9 and a new one answers, also from another thread."""
        from fastsample.answers.math_verify import are_equal, extract

        start = perf_counter()
        assert not are_equal("2", "9**9**9**9", seconds=1)
        assert perf_counter() - start < 5
        found = []
        thread = threading.Thread(target=lambda: found.append(extract(r"so it is $\frac{1}{2}$", seconds=20)))
        thread.start()
        thread.join()
        assert found == ["1/2"]
