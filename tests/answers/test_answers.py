"""Reading answers out of texts, and one form for equal ones; hostile texts are bounded in time."""

from __future__ import annotations

from time import perf_counter, process_time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastsample.answers.equivalence import MAX_ANSWER, canonical
from fastsample.answers.extractors import auto, boxed, choice, extractor_of, last_line, last_number


@pytest.mark.parametrize(
    "equal",
    [
        [
            "0.5",
            "1/2",
            r"\frac{1}{2}",
            r"\dfrac12",
            r"50\%",
            "50 %",
            ".5",
            "$0.50$",
            r"\boxed{1/2}",
            "½",
            "+0.5",
            "5e-1",
        ],
        ["1000", "1,000", "1,000.00", "$1,000", "x = 1000", "1000.", "1e3", r"1{,}000".replace("{,}", ","), "１０００"],
        ["-1/3", r"-\frac{1}{3}", "−1/3", "-2/6"],
        ["1.5", "1 1/2", r"1\frac{1}{2}", "3/2"],
        ["0", "-0", "0.0", "0/7"],
        ["B", "(B)", r"\text{(B)}", "b", "**B**"],
        ["yes", "Yes.", " YES ", '"yes"'],
        ["(1,2)", "( 1, 2 )", r"\left(1, 2\right)"],
        ["x^2+1", "x^2 + 1", "$x^2+1$"],
    ],
)
def test_equal_answers_have_one_form(equal):
    """Every way of writing the same answer counts for the same vote."""
    assert {canonical(e) for e in equal} == {equal[0]}


@pytest.mark.parametrize(
    "different",
    [
        ["0.5", "0.05"],
        ["1/3", "0.333"],
        ["10", "1"],
        ["1,2", "12"],
        ["x^2", "x_2"],
        ["(1,2)", "(2,1)"],
        ["2^10", "210"],
    ],
)
def test_different_answers_stay_apart(different):
    """Merging must not merge what is not equal."""
    assert canonical(different[0]) != canonical(different[1])


@pytest.mark.parametrize("empty", ["", "   ", "$$", "**", r"\text{}"])
def test_nothing_is_no_answer(empty):
    """What holds no answer never votes."""
    assert canonical(empty) is None


def test_nothing_is_evaluated():
    """Powers stay text: 9**9**9**9 would be a number of 370 million digits, and 2**3 must not become 8."""
    assert canonical("9**9**9**9") == "9**9**9**9"
    assert canonical("2**3") != canonical("8")
    assert "getcwd()" in str(canonical("__import__('os').getcwd()"))


HOSTILE = ["9" * 100_000, "(" * 100_000, "\\boxed{" * 20_000, "{" * 99_999 + "}", "1," * 50_000, "-" * 100_000,
           "1/" * 50_000, "\\frac{" * 20_000, "$" * 100_000, " " * 100_000, "a=" * 50_000, "1e999999999",
           "answer is " * 10_000, "#### " * 20_000, "\x00\ud800" * 1000, "0." + "0" * 100_000 + "1"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: ascii(t[:12]))
def test_hostile_texts_are_bounded(text):
    """Every extractor and the canonical form: at most a fifth of a second, a bounded answer, no exception."""
    start = perf_counter()
    for extract in (auto, boxed, last_number, choice, last_line):
        found = extract(text)
        for candidate in (found, text):
            form = None if candidate is None else canonical(candidate)
            assert form is None or len(form) <= MAX_ANSWER
    assert perf_counter() - start < 0.2 * 5


UNITS = [
    "\n", " ", "\t", ".", "..", ",", "!", "(", ")", "()", "{", "}", "{}", r"\boxed{", r"\boxed{\text{",
    r"\boxed{}", r"\frac", r"\frac{", r"\frac{1}{2}", r"\frac12", "9", "9**", "9/", "1/", "/", "1 ", "1,",
    "1,000,", "0.", "1e", "$", "$$", r"\$", "-", "- ", "x=", "a_1=", "=", "*", "`", "_", "~", "\\", r"\,",
    r"\text{", r"\text{a}", r"\left(", "%", "answer", "answer is", "answer: ", "####", "#### \t", "answer is (",
    "option ", "\noption ", "(A", "A\n", "\nA", "\xe9", "\ufdfa", "\xbd", "\uff11", "\u0300", "\u202e", "\ud800",
    "\x00", "a. ", "A:\n", "\u2028", "\xa0", "\r", "A\r",
]  # fmt: skip
AROUND = ["{}", "1{}x", "({})", "${}$", "answer is {}z"]
READERS = [auto, boxed, last_number, choice, last_line, canonical]


@pytest.mark.slow
@pytest.mark.parametrize("read", READERS, ids=lambda f: f.__name__)
def test_time_grows_with_the_length_and_not_with_its_square(read):
    """Four times the text takes about four times the time (a square would take sixteen times), whatever is repeated."""
    longest = 2_900 if read is canonical else 20_000

    def seconds(text, n):
        times = []
        for _ in range(n):
            start = process_time()
            read(text)
            times.append(process_time() - start)
        return min(times)

    for unit in UNITS:
        for around in AROUND:
            short, long = (around.replace("{}", unit * (n // len(unit))) for n in (longest // 4, longest))
            one, four = seconds(short, 3), seconds(long, 1)
            if four > 9 * one + 0.02:  # before it counts, measured as the shorter one was
                one, four = seconds(short, 7), seconds(long, 7)
            assert four <= 9 * one + 0.02, (unit, around)


@pytest.mark.parametrize(
    "text", ["9**9**9", "9^{9^9}", "9!!!!", "1e99", "1e-99", "9" * 3000, "1/" + "9" * 190, "1e999", "９" * 250]
)
def test_numbers_too_large_are_no_work(text):
    """Powers stay text, exponents have two digits, and the canonical form stays its own."""
    form = canonical(text)
    assert len(form) <= MAX_ANSWER
    assert canonical(form) == form


def test_long_answers_differ_by_their_end():
    """Answers too long to compare as text are still told apart."""
    assert canonical("a" * 5000 + "b") != canonical("a" * 5000 + "c")
    assert canonical("a" * 5000) == canonical("a" * 5000)


@given(st.text(max_size=60) | st.text("\\\\ \x1f~$.(){}x=0text", max_size=30))
@example("\\\x1f0")
@example("\\~0")
def test_the_canonical_form_is_its_own(text):
    """A stored answer that is read again counts for the same vote."""
    form = canonical(text)
    assert form is None or canonical(form) == form


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_fractions_merge_with_their_multiples(top, bottom):
    """a/b, ka/kb and \\frac{a}{b} are one answer, and different values never are."""
    assert canonical(f"{top}/{bottom}") == canonical(f"{3 * top}/{3 * bottom}")
    assert canonical(f"{top}/{bottom}") != canonical(f"{top + 1}/{bottom}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{3} then \boxed{4", "3"),  # cut off by the length limit
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{}", None),
        ("no box", None),
    ],
)
def test_boxed(text, expected):
    """The last complete box, its braces matched."""
    assert boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 + 4 = 7", "7"),
        ("it is -7.", "-7"),
        ("from 3-4", "4"),
        ("that makes $1,234.50.", "$1,234.50"),
        ("about 75%", "75%"),
        ("3/4 of it", "3/4"),
        ("x1 and v2.0b", None),
        ("none", None),
        ("1, 2, 3", "3"),
    ],
)
def test_last_number(text, expected):
    """Sign, separators, decimals, fractions and per cent belong to a number; digits inside words are none."""
    assert last_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is (B) because A is wrong.", "B"),
        ("Answer: C", "C"),
        ("**Answer:** D", "D"),
        ("I choose (A). No, (C).", "C"),
        ("B) because", "B"),
        ("B", "B"),
        ("A dog is an animal.", None),
        ("The answer is Apple.", None),
    ],
)
def test_choice(text, expected):
    """A letter that is an answer, not the article A or the first letter of a word."""
    assert choice(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"The answer is 3, that is \boxed{4}", "4"),
        ("The answer is 5 apples. I had 7.", "5"),
        ("work\n#### 42", "42"),
        ("The final answer is: Paris.", "Paris"),
        ("2 + 2 = 4", "4"),
        ("Yes.", "Yes"),
        ("I do not know what this is about, and I will not say.", None),
        ("", None),
    ],
)
def test_auto(text, expected):
    """A box, else what follows "answer is", else the last number, else a short last line."""
    assert auto(text) == expected


def test_extractors_by_name():
    """Built-in ones, regular expressions and functions by import path."""
    assert extractor_of("regex:=> (\\w+)")("=> a => b") == "b"
    assert extractor_of("regex:\\d+")("1 22 x") == "22"
    assert extractor_of("fastsample.answers.extractors:last_line")("a\nb\n\n") == "b"
    assert extractor_of(last_line) is last_line


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("best", "no extractor is called 'best'; there are auto, boxed"),
        ("regex:(", "is no regular expression"),
        ("no_such_module:f", "importable from here"),
        ("fastsample.answers.extractors:no_such", "has no no_such"),
        ("fastsample.answers.extractors:MAX_TEXT", "is no function"),
    ],
)
def test_bad_extractors_are_refused_in_a_sentence(name, part):
    """What is wrong with a name, and what would be right."""
    with pytest.raises(ValueError, match=part):
        extractor_of(name)
