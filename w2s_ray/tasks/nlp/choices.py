"""A question with several answers becomes two examples: its right answer, and one wrong one drawn by hash.

So each question is as often right as wrong, whoever sees only the question learns nothing, and the two are drawn side
by side. Both are written the same way, so that the form of an answer never tells which it is. The question comes after
its passage and the answer last, because a text that is too long loses its beginning.
"""

from collections.abc import Iterator, Sequence

from w2s_ray.tasks.examples import Example, Skip, digest, draw

YES_NO = ("no", "yes")


def judged(context: str, answer: str, ask: str = "Is this answer right?") -> str:
    """Return the text of one answer to be judged."""
    return f"{context}\nAnswer: {answer}\n{ask}"


def one_right_one_wrong(context: str, right: str, wrong: Sequence[str], group: str, ask: str) -> Iterator[Example]:
    """Yield (context, right answer) and (context, a wrong answer), a bundle.

    Raises:
        Skip: when every wrong answer reads like the right one.
    """
    others = [answer for answer in wrong if answer.casefold() != right.casefold()]
    if not others:
        raise Skip("no wrong answer that differs from the right one")
    bundle = digest(group, context)
    answers = {"yes": right, "no": others[draw(len(others), context, right, *others)]}
    for label, answer in answers.items():
        yield Example(judged(context, answer, ask), digest(group), label, bundle=bundle)


def question(text: str, right: int, answers: Sequence[str], *, passage: str = "", never: str = "") -> Iterator[Example]:
    """Yield the two examples of a question with numbered answers, about a passage; related: the passage, else the text.

    `never` begins answers such as "none of the above", which mean nothing without the others: questions that they
    answer are left out, and they are never drawn as wrong ones, so that they tell nothing either.

    Raises:
        Skip: when no answer has the number `right`, when there is no wrong one, or when the right one is `never`.
    """
    if not 0 <= right < len(answers):
        raise Skip("a right answer that is not among the answers", right)
    unfit = [bool(never) and answer.casefold().startswith(never) for answer in answers]
    if unfit[right]:
        raise Skip(f"the right answer is {never!r}", is_fault=False)
    wrong = [answer for at, answer in enumerate(answers) if at != right and not unfit[at]]
    context = "\n\n".join(filter(None, (passage, f"Question: {text}")))
    return one_right_one_wrong(context, answers[right], wrong, passage or text, "Is this answer right?")
