"""A question with several answers becomes two examples: its right answer, and one wrong one drawn by hash.

So each question is as often right as wrong, whoever sees only the question learns nothing, and the two are drawn side
by side. Both are written the same way, so that the form of an answer never tells which it is.
"""

from collections.abc import Iterator, Sequence

from w2s_ray.tasks.examples import Example, Skip, digest, draw

ANSWER_CLASSES = ("wrong", "right")


def one_right_one_wrong(context: str, right: str, wrong: Sequence[str], group: str) -> Iterator[Example]:
    """Yield (context, right answer) and (context, a wrong answer), a bundle.

    Raises:
        Skip: when every wrong answer reads like the right one.
    """
    others = [answer for answer in wrong if answer.casefold() != right.casefold()]
    if not others:
        raise Skip("no wrong answer that differs from the right one")
    answers = {"right": right, "wrong": others[draw(len(others), context, right, *others)]}
    for label, answer in answers.items():
        yield Example(f"{context}\nA: {answer}", digest(group), label, bundle=digest(context))
