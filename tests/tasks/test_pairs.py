import subprocess
import sys

import pytest
from w2s_ray.tasks.pairs import paired

from w2s_ray.tasks.hh_rlhf import first_human_turn, group_of


def test_trap_21_the_order_of_a_pair_is_a_coin_of_its_id_and_not_of_what_was_read_before() -> None:
    texts = [(f"better {n}", f"worse {n}") for n in range(40)]
    forwards = {pair: paired(*pair) for pair in texts}
    backwards = {pair: paired(*pair) for pair in reversed(texts)}
    assert forwards == backwards
    script = (
        "from w2s_ray.tasks.pairs import paired; print([paired(f'better {n}', f'worse {n}').label for n in range(40)])"
    )
    other_process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert other_process.strip() == str([pair.label for pair in forwards.values()])


def test_the_better_text_stands_first_half_of_the_time_and_the_label_says_where() -> None:
    pairs = [(f"better {n}", f"worse {n}") for n in range(2000)]
    shown = [paired(*pair) for pair in pairs]
    assert abs(sum(pair.label for pair in shown) - 1000) < 3 * 22.4
    for (better, worse), pair in zip(pairs, shown, strict=True):
        assert {pair.text, pair.other} == {better, worse}
        assert (pair.other if pair.label else pair.text) == better


def test_the_order_says_nothing_of_which_is_better() -> None:
    for n in range(50):
        one, two = paired(f"a {n}", f"b {n}"), paired(f"b {n}", f"a {n}")
        assert (one.id, one.text, one.other) == (two.id, two.text, two.other)
        assert one.label == 1 - two.label


@pytest.mark.parametrize(
    ("dialog", "turn"),
    [
        ("\n\nHuman: Why  is\nit SO?\n\nAssistant: Because.\n\nHuman: Oh.\n\nAssistant: Yes.", "why is it so?"),
        ("\n\nHuman: Why is it so?", "why is it so?"),
        ("\n\nHuman:\n\nAssistant: Hello?", ""),
        ("\n\nAssistant: Hello?\n\nHuman: Hi", None),
        ("", None),
    ],
)
def test_the_first_human_turn_is_what_stands_before_the_first_answer(dialog: str, turn: str | None) -> None:
    assert first_human_turn(dialog) == turn


def test_dialogs_that_begin_alike_are_of_one_group() -> None:
    short, long = "\n\nHuman: Why?\n\nAssistant: So.", "\n\nHuman: why? \n\nAssistant: No.\n\nHuman: But"
    assert group_of(short) == group_of(long) != group_of("\n\nHuman: Who?\n\nAssistant: So.")
