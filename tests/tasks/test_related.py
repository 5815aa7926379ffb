from w2s_ray.tasks.related import merged_groups, normalised


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


def test_pairs_are_related_by_either_of_their_texts() -> None:
    assert merged_groups(["a", "b", "c"], ["1", "2", "3"], ["4", "1!", "5"]) == ["a", "a", "c"]
