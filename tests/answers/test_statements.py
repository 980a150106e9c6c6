"""What `auto` reads as a text's answer: sentences whose answer a person knows, and those in which there is none."""

from __future__ import annotations

import pytest

from fastsample.answers.extractors import auto


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7 is a larger number than 3.", "7"),
        ("7 / 3, which is 2", "2"),
        ("The answer to this classic", None),
        ("So 12 + 8 = 20 cows.", "20"),
        ("There are 3 boxes with 4 apples each, and 12 apples are left.", "12"),
        ("Tom has 3 boxes with 4 apples each.", None),
        ("So, 0.4 is the smaller number.", "0.4"),
        ("17 is not a prime number.", None),
        ("17 is a prime number.", None),
        ("No, 17 is not a prime number.", "No"),
        ("Yes.", "Yes"),
        ("7 divided by 3 is 2 with a remainder of 1.", None),
        ("The ratio of the two is 3:7.", None),
        ("He arrives at 10:15, so it is 10:15", "10:15"),
        ("x = 10 /", None),
        ("The square root is 4√14", None),
        ("Neptune is 17 times larger than Earth", None),
        ("The capital of France is Paris.", "Paris"),
        ("A fruit is a vegetable.", None),
        ("1. Dance", None),
        ("D) stone\n\nThe correct answer is: D) stone", "D"),
        ("(B) because a carrot is no fruit", "B"),
        ("A) carrot\nB) apple\nC) chair", None),
        ("It has 6 sides. That is how hexagons are made.", None),
        ("The answer is incorrect. The correct answer is C.", "C"),
        ("The answer is incorrect.", None),
        ("The answer is 7 because 7 > 3.", "7"),
        ("If 8 more come, that is 10, and the answer is that's 10.", "10"),
        ("The answer is 2 x 4 = 8 apples", "8"),
        ("The answer is 9 +", None),
        ("The answer is \\frac{2}{3}.", "\\frac{2}{3}"),
        ("The answer is\n\nthat nobody knows", None),
        ("**Answer:** $12.50", "12.50"),
        ("#### 1,250", "1,250"),
        ("The final answer is: two kilograms of feathers.", "two kilograms of feathers"),
        ("The answer is the one that was given by everybody before", None),
        ("What is 3 + 4?", None),
    ],
)
def test_auto_reads_what_is_stated(text, answer):
    """A number that is stated, a letter, a name, yes or no; and nothing where a reader would not be sure."""
    assert auto(text) == answer
