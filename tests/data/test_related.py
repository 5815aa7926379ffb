from collections.abc import Callable

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.related import merged_groups, normalised


def test_groups_that_share_a_text_become_one() -> None:
    groups = ["d", "a", "b", "c", "e"]
    texts = ["the cat", "The  CAT!", "a dog", "something else", "a dog."]
    assert merged_groups(groups, texts) == ["a", "a", "b", "c", "b"]


def test_merging_is_transitive_and_does_not_depend_on_the_order() -> None:
    groups, texts = ["a", "b", "b", "c", "c", "d"], ["1", "1", "2", "2", "3", "4"]
    assert merged_groups(groups, texts) == ["a"] * 5 + ["d"]
    assert merged_groups(groups[::-1], texts[::-1]) == ["d"] + ["a"] * 5


def test_texts_without_words_are_compared_as_they_are() -> None:
    assert normalised("!!") != normalised("??")
    assert merged_groups(["a", "b", "c"], ["!!", "??", "!!"]) == ["a", "b", "a"]


def test_a_prepared_task_keeps_equal_texts_together(
    toy: Callable[..., PreparedTask], rows_of: Callable[..., list[dict[str, object]]]
) -> None:
    rows = rows_of(6)
    rows[5]["text"] = str(rows[0]["text"]).upper()
    groups = toy(rows).table()["group"].to_pylist()
    assert groups[5] == groups[0]
    assert len(set(groups)) == 5
