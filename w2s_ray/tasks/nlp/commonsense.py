"""What happens next, how things are done, what people do: related are endings of one beginning."""

from collections.abc import Iterable

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import Example, Format, Skip, class_of, digest, number_of, optional_text, text_of, texts_of
from w2s_ray.tasks.nlp.choices import YES_NO, one_right_one_wrong, question
from w2s_ray.tasks.rows import Row


def hellaswag(row: Row) -> Iterable[Example]:
    """Four endings; beginnings from one video or article are related."""
    beginning, endings, right = text_of(row, "ctx"), texts_of(row, "endings"), number_of(row, "label")
    if not 0 <= right < len(endings):
        raise Skip("unknown label", right)
    wrong = [ending for at, ending in enumerate(endings) if at != right]
    ask = "Is this how it goes on?"
    source = optional_text(row, "source_id")
    for example in one_right_one_wrong(beginning, endings[right], wrong, beginning, ask):
        yield example._replace(ties=(digest("source", source),) if source else ())


def piqa(row: Row) -> Iterable[Example]:
    """Two ways to a goal."""
    goal, ways = text_of(row, "goal"), (text_of(row, "sol1"), text_of(row, "sol2"))
    right = class_of(row, "label", ("0", "1")) == "1"
    return one_right_one_wrong(f"Goal: {goal}", ways[right], [ways[not right]], goal, "Does this reach the goal?")


def social_i_qa(row: Row) -> Iterable[Example]:
    """Three answers to a question about what somebody did."""
    answers = [text_of(row, column) for column in ("answerA", "answerB", "answerC")]
    return question(text_of(row, "question"), number_of(row, "label") - 1, answers, passage=text_of(row, "context"))


HELLASWAG = Recipe(
    name="hellaswag",
    hub="Rowan/hellaswag",
    format=Format("classes", ("ctx", "endings", "label"), hellaswag, YES_NO),
    licence="MIT",
    citation="Zellers et al. 2019",
    protocol="is this how it goes on? one right and one wrong ending per beginning",
    test="validation",
    num_rows=39_905 + 10_042,
)
PIQA = Recipe(
    name="piqa",
    hub="ybisk/piqa",
    format=Format("classes", ("goal", "sol1", "sol2", "label"), piqa, YES_NO),
    licence="not stated",
    citation="Bisk et al. 2020",
    protocol="does this reach the goal? one right and one wrong way per goal",
    test="validation",
    num_rows=16_113 + 1_838,
)
SOCIAL_I_QA = Recipe(
    name="social_i_qa",
    hub="allenai/social_i_qa",
    format=Format("classes", ("context", "question", "answerA", "answerB", "answerC", "label"), social_i_qa, YES_NO),
    licence="not stated",
    citation="Sap et al. 2019",
    protocol="is this answer right? one right and one wrong per question",
    test="validation",
    num_rows=33_410 + 1_954,
)
