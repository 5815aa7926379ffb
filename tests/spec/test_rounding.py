"""Shares of numbers, rounded up."""

import math
from fractions import Fraction

from w2s_ray.spec.base import rounded_up


def test_a_share_of_a_number_is_rounded_up_exactly() -> None:
    assert math.ceil(0.28 * 25) == 8, "the error of binary fractions"
    assert rounded_up(0.28 * 25) == 7
    for percent in range(101):
        for number in range(1, 300):
            assert rounded_up(percent / 100 * number) == math.ceil(Fraction(percent, 100) * number)


def test_the_share_of_a_quotient_is_rounded_up_exactly() -> None:
    for number in range(1, 200):
        for part in range(number + 1):
            assert rounded_up(part / number * number) == part
