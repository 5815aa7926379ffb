"""Questions of school science: related are those about the same passage or the same question."""

from collections.abc import Iterable

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import Example, Format, Skip, digest, optional_text, text_of, texts_of
from w2s_ray.tasks.nlp.choices import YES_NO, question
from w2s_ray.tasks.rows import Row

SCIQ_COLUMNS = ("question", "distractor1", "distractor2", "distractor3", "correct_answer", "support")


def sciq(row: Row) -> Iterable[Example]:
    """Four answers; the passage that supports the right one stands before the question where there is one.

    The questions say by themselves what they ask, and some recur with another passage.
    """
    answers = [text_of(row, column) for column in ("correct_answer", "distractor1", "distractor2", "distractor3")]
    asked = text_of(row, "question")
    for example in question(asked, 0, answers, passage=optional_text(row, "support")):
        yield example._replace(ties=(digest("question", asked.casefold()),))


def openbookqa(row: Row) -> Iterable[Example]:
    """Four answers with letters; only their texts are shown, of the right one as of the wrong ones."""
    return question(text_of(row, "question_stem"), *_lettered(row))


def quartz(row: Row) -> Iterable[Example]:
    """Two answers with letters, about a passage that states a law."""
    return question(text_of(row, "question"), *_lettered(row), passage=text_of(row, "para"))


def _lettered(row: Row) -> tuple[int, list[str]]:
    """Return the number of the right answer, and all answers."""
    choices = row.get("choices")
    if not isinstance(choices, dict):
        raise Skip("choices are no mapping of `text` and `label`")
    letters, letter = texts_of(choices, "label"), text_of(row, "answerKey")
    if letter not in letters:
        raise Skip("unknown answerKey", letter)
    return letters.index(letter), texts_of(choices, "text")


SCIQ = Recipe(
    name="sciq",
    hub="allenai/sciq",
    format=Format("classes", SCIQ_COLUMNS, sciq, YES_NO),
    licence="CC BY-NC 3.0",
    citation="Welbl, Liu and Gardner 2017",
    protocol="is this answer right? one right and one wrong per question",
    test="test",
    num_rows=11_679 + 1_000,
)
OPENBOOKQA = Recipe(
    name="openbookqa",
    hub="allenai/openbookqa",
    subset="main",
    format=Format("classes", ("question_stem", "choices", "answerKey"), openbookqa, YES_NO),
    licence="not stated",
    citation="Mihaylov et al. 2018",
    protocol="is this answer right? one right and one wrong per question",
    test="validation+test",
    num_rows=4_957 + 1_000,
)
QUARTZ = Recipe(
    name="quartz",
    hub="allenai/quartz",
    format=Format("classes", ("question", "choices", "answerKey", "para"), quartz, YES_NO),
    licence="CC BY 4.0",
    citation="Tafjord et al. 2019",
    protocol="is this answer right? one right and one wrong per question",
    test="validation+test",
    num_rows=2_696 + 384 + 784,
)
