"""Questions about a passage: related are those about the same passage."""

from collections.abc import Iterable

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import Example, Format, Skip, class_of, digest, number_of, text_of, texts_of
from w2s_ray.tasks.nlp.choices import YES_NO, judged, question
from w2s_ray.tasks.rows import Row


def boolq(row: Row) -> Iterable[Example]:
    """A question that is answered by yes or no."""
    passage = text_of(row, "passage")
    text = f"{passage}\n\nQuestion: {text_of(row, 'question')}?"
    yield Example(text, digest(passage), class_of(row, "answer", {False: "no", True: "yes"}))


def cosmos_qa(row: Row) -> Iterable[Example]:
    """Four answers; "none of the above choices" is no answer by itself."""
    answers = [text_of(row, f"answer{number}") for number in range(4)]
    never = "none of the above"
    right = number_of(row, "label")
    return question(text_of(row, "question"), right, answers, passage=text_of(row, "context"), never=never)


def dream(row: Row) -> Iterable[Example]:
    """Three answers about a dialogue."""
    answers, right = texts_of(row, "choice"), text_of(row, "answer")
    if right not in answers:
        raise Skip("a right answer that is not among the answers", right)
    dialogue = "\n".join(texts_of(row, "dialogue"))
    return question(text_of(row, "question"), answers.index(right), answers, passage=dialogue)


def quail(row: Row) -> Iterable[Example]:
    """Four answers; "not enough information" would be right or wrong by its wording alone."""
    right, answers = number_of(row, "correct_answer_id"), texts_of(row, "answers")
    never = "not enough information"
    return question(text_of(row, "question"), right, answers, passage=text_of(row, "context"), never=never)


def multirc(row: Row) -> Iterable[Example]:
    """One of several answers to a question, each right or wrong by itself."""
    passage, asked = text_of(row, "paragraph"), text_of(row, "question")
    text = judged(f"{passage}\n\nQuestion: {asked}", text_of(row, "answer"))
    yield Example(text, digest(passage), class_of(row, "label", YES_NO), bundle=digest(passage, asked))


def mc_taco(row: Row) -> Iterable[Example]:
    """One of several answers to a question of time, each plausible or not by itself."""
    sentence, asked = text_of(row, "sentence"), text_of(row, "question")
    text = judged(f"{sentence}\n\nQuestion: {asked}", text_of(row, "answer"), "Is this answer plausible?")
    yield Example(text, digest(sentence), class_of(row, "label", YES_NO), bundle=digest(sentence, asked))


BOOLQ = Recipe(
    name="boolq",
    hub="google/boolq",
    format=Format("classes", ("question", "passage", "answer"), boolq, YES_NO),
    licence="CC BY-SA 3.0",
    citation="Clark et al. 2019",
    protocol="is the answer yes?",
    test="validation",
    num_rows=9_427 + 3_270,
)
COSMOS_QA = Recipe(
    name="cosmos_qa",
    hub="allenai/cosmos_qa",
    format=Format(
        "classes", ("context", "question", "answer0", "answer1", "answer2", "answer3", "label"), cosmos_qa, YES_NO
    ),
    licence="CC BY 4.0",
    citation="Huang et al. 2019",
    protocol="is this answer right? one right and one wrong per question, none answered by none of the above",
    test="validation",
    num_rows=25_262 + 2_985,
)
DREAM = Recipe(
    name="dream",
    hub="dataset-org/dream",
    format=Format("classes", ("dialogue", "question", "choice", "answer"), dream, YES_NO),
    licence="non-commercial research",
    citation="Sun et al. 2019",
    protocol="is this answer right? one right and one wrong per question",
    test="test",
    num_rows=6_116 + 2_041,
)
QUAIL = Recipe(
    name="quail",
    hub="textmachinelab/quail",
    format=Format("classes", ("context", "question", "answers", "correct_answer_id"), quail, YES_NO),
    licence="CC BY-NC-SA 4.0",
    citation="Rogers et al. 2020",
    commit="8c8b4a9b0b3b161f32afc4875c2ba7a2b0b25b3c",
    protocol="is this answer right? one right and one wrong per question that has an answer",
    test="validation",
    num_rows=10_246 + 2_164,
)
MULTIRC = Recipe(
    name="multirc",
    hub="aps/super_glue",
    subset="multirc",
    format=Format("classes", ("paragraph", "question", "answer", "label"), multirc, YES_NO),
    licence="research use",
    citation="Khashabi et al. 2018; SuperGLUE, Wang et al. 2019",
    commit="51a0ed3b5e7269640c1a335e1f90a7ce8835eec1",
    protocol="is this answer right? as many right as wrong per question",
    test="validation",
    num_rows=27_243 + 4_848,
)
MC_TACO = Recipe(
    name="mc_taco",
    hub="CogComp/mc_taco",
    format=Format("classes", ("sentence", "question", "answer", "label"), mc_taco, YES_NO),
    licence="not stated",
    citation="Zhou et al. 2019",
    protocol="is this answer plausible? as many right as wrong per question; there is no train split",
    pool="test",
    test="validation",
    num_rows=9_442 + 3_783,
)
