"""Questions of school science."""

from collections.abc import Iterable

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import Example, Format, text_of
from w2s_ray.tasks.nlp.choices import ANSWER_CLASSES, one_right_one_wrong
from w2s_ray.tasks.rows import Row


def sciq(row: Row) -> Iterable[Example]:
    """A question with one right and three wrong answers; the support passage stands before it where there is one."""
    question = text_of(row, "question")
    wrong = [text_of(row, f"distractor{number}") for number in (1, 2, 3)]
    passage = (row.get("support") or "").strip()
    context = "\n\n".join(filter(None, (passage, f"Q: {question}")))
    return one_right_one_wrong(context, text_of(row, "correct_answer"), wrong, group=passage or question)


SCIQ = Recipe(
    name="sciq",
    hub="allenai/sciq",
    format=Format(
        "classes",
        ("question", "distractor1", "distractor2", "distractor3", "correct_answer", "support"),
        sciq,
        ANSWER_CLASSES,
    ),
    licence="CC BY-NC 3.0",
    citation="Welbl, Liu and Gardner 2017",
    protocol="is this answer right? One right and one wrong per question; the official test split",
    test="test",
    num_rows=12_679,
)
