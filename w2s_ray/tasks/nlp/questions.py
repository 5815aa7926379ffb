"""Questions with several answers: about passages, school science and common sense.

A question becomes two examples: its right answer, and one wrong answer chosen by hash. So each question is right as
often as wrong, and the question alone does not predict the label. The two examples are a bundle, and have the same
form, so that the form of an answer does not predict the label either. The question follows its passage and the answer
is last, because texts that are too long lose their beginning.

With `form: pairs`, a question is one example instead: the question is the prompt, and the same two answers are its
completions.

Examples about the same passage or question, or with the same beginning of a story, are related.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import (
    PAIR_CLASSES,
    Example,
    Format,
    Skip,
    class_of,
    digest,
    hash_choice,
    number_of,
    optional_text,
    pair,
    text_of,
    texts_of,
)
from w2s_ray.tasks.rows import Row

YES_NO = ("no", "yes")
_MARK = re.compile(r"\[[^]]*\]")


def judged(context: str, answer: str, ask: str = "Is this answer right?") -> str:
    """Return the text of an example: is this answer right?"""
    return f"{context}\nAnswer: {answer}\n{ask}"


class Question(NamedTuple):
    """A question with several answers, of which one is right.

    Attributes:
        context: what a reader sees before an answer.
        right: the right answer.
        wrong: the other answers.
        group: the passage or question that related examples share.
        ask: what is asked about an answer, if the task has classes.
        lead: what comes between context and answer, if the task has pairs.
        ties: further keys of related examples.
    """

    context: str
    right: str
    wrong: Sequence[str]
    group: str
    ask: str = "Is this answer right?"
    lead: str = "\nAnswer:"
    ties: tuple[str, ...] = ()

    def a_wrong_answer(self) -> str:
        """Return one of the wrong answers by hash.

        Raises:
            Skip: when every wrong answer equals the right one, ignoring case.
        """
        others = [answer for answer in self.wrong if answer.casefold() != self.right.casefold()]
        if not others:
            raise Skip("no wrong answer that differs from the right one")
        return others[hash_choice(len(others), self.context, self.right, *others)]

    def as_classes(self) -> Iterator[Example]:
        """Yield (context, right answer) and (context, a wrong answer), a bundle."""
        bundle = digest(self.group, self.context)
        for label, answer in {"yes": self.right, "no": self.a_wrong_answer()}.items():
            text = judged(self.context, answer, self.ask)
            yield Example(text, digest(self.group), label, bundle=bundle, ties=self.ties)

    def as_pairs(self) -> Iterator[Example]:
        """Yield one pair: the right answer and a wrong one after the context, in an order by hash."""
        prompt = self.context + self.lead
        right, wrong = (f"{prompt} {answer}" for answer in (self.right, self.a_wrong_answer()))
        yield pair(right, wrong, digest(self.group), prompt=prompt)._replace(ties=self.ties)


def question(text: str, right: int, answers: Sequence[str], *, passage: str = "", never: str = "") -> Question:
    """Return a question with answers 0, 1, …; the group is the passage, or else the text.

    Answers that begin with `never`, such as "none of the above", have no meaning without the other answers. A question
    with such a right answer is left out, and such answers are not used as wrong ones.

    Raises:
        Skip: when no answer has the number `right`, or when the right one is `never`.
    """
    if not 0 <= right < len(answers):
        raise Skip("a right answer that is not among the answers", right)
    unfit = [bool(never) and answer.casefold().startswith(never) for answer in answers]
    if unfit[right]:
        raise Skip(f"the right answer is {never!r}", is_fault=False)
    wrong = [answer for at, answer in enumerate(answers) if at != right and not unfit[at]]
    context = "\n\n".join(filter(None, (passage, f"Question: {text}")))
    return Question(context, answers[right], wrong, passage or text)


def boolq(row: Row) -> Iterable[Example]:
    """A question with the answer yes or no."""
    passage = text_of(row, "passage")
    text = f"{passage}\n\nQuestion: {text_of(row, 'question')}?"
    yield Example(text, digest(passage), class_of(row, "answer", {False: "no", True: "yes"}))


def cosmos_qa(row: Row) -> Question:
    """Four answers; "none of the above choices" is not an answer by itself."""
    answers = [text_of(row, f"answer{number}") for number in range(4)]
    never = "none of the above"
    right = number_of(row, "label")
    return question(text_of(row, "question"), right, answers, passage=text_of(row, "context"), never=never)


def dream(row: Row) -> Question:
    """Three answers about a dialogue."""
    answers, right = texts_of(row, "choice"), text_of(row, "answer")
    if right not in answers:
        raise Skip("a right answer that is not among the answers", right)
    dialogue = "\n".join(texts_of(row, "dialogue"))
    return question(text_of(row, "question"), answers.index(right), answers, passage=dialogue)


def quail(row: Row) -> Question:
    """Four answers; the wording "not enough information" alone would show whether it is right."""
    right, answers = number_of(row, "correct_answer_id"), texts_of(row, "answers")
    never = "not enough information"
    return question(text_of(row, "question"), right, answers, passage=text_of(row, "context"), never=never)


def multirc(row: Row) -> Iterable[Example]:
    """One of several answers to a question, each right or wrong by itself."""
    passage, asked = text_of(row, "paragraph"), text_of(row, "question")
    text = judged(f"{passage}\n\nQuestion: {asked}", text_of(row, "answer"))
    yield Example(text, digest(passage), class_of(row, "label", YES_NO), bundle=digest(passage, asked))


def mc_taco(row: Row) -> Iterable[Example]:
    """One of several answers to a question about time, each plausible or not by itself."""
    sentence, asked = text_of(row, "sentence"), text_of(row, "question")
    text = judged(f"{sentence}\n\nQuestion: {asked}", text_of(row, "answer"), "Is this answer plausible?")
    yield Example(text, digest(sentence), class_of(row, "label", YES_NO), bundle=digest(sentence, asked))


SCIQ_COLUMNS = ("question", "distractor1", "distractor2", "distractor3", "correct_answer", "support")


def sciq(row: Row) -> Question:
    """Four answers; the passage that supports the right one, if there is one, precedes the question.

    Questions are complete without their passage, and some occur again with a different one.
    """
    answers = [text_of(row, column) for column in ("correct_answer", "distractor1", "distractor2", "distractor3")]
    asked = text_of(row, "question")
    ties = (digest("question", asked.casefold()),)
    return question(asked, 0, answers, passage=optional_text(row, "support"))._replace(ties=ties)


def openbookqa(row: Row) -> Question:
    """Four answers with letters; only their texts are shown."""
    return question(text_of(row, "question_stem"), *_lettered(row))


def quartz(row: Row) -> Question:
    """Two answers with letters, about a passage that states a law of nature."""
    return question(text_of(row, "question"), *_lettered(row), passage=text_of(row, "para"))


def _lettered(row: Row) -> tuple[int, list[str]]:
    """Return the number of the right answer, and all answers."""
    choices = row.get("choices")
    if not isinstance(choices, dict):
        raise Skip("choices are not a mapping with `text` and `label`")
    letters, letter = texts_of(choices, "label"), text_of(row, "answerKey")
    if letter not in letters:
        raise Skip("unknown answerKey", letter)
    return letters.index(letter), texts_of(choices, "text")


def hellaswag(row: Row) -> Question:
    """Four endings; beginnings from the same video or article are related."""
    beginning, *endings = map(without_marks, (text_of(row, "ctx"), *texts_of(row, "endings")))
    right = number_of(row, "label")
    if not beginning or not all(endings):
        raise Skip("a text of WikiHow marks alone")
    if not 0 <= right < len(endings):
        raise Skip("unknown label", right)
    wrong = [ending for at, ending in enumerate(endings) if at != right]
    source = optional_text(row, "source_id")
    ties = (digest("source", source),) if source else ()
    return Question(beginning, endings[right], wrong, beginning, "Is this how it goes on?", "", ties)


def without_marks(text: str) -> str:
    """Return a text without WikiHow's marks ("[step]", …); "[title]" ends a sentence, as in lm-evaluation-harness."""
    return _MARK.sub("", text.replace(" [title]", ". ")).replace("  ", " ").strip()


def piqa(row: Row) -> Question:
    """Two ways to a goal."""
    goal, ways = text_of(row, "goal"), (text_of(row, "sol1"), text_of(row, "sol2"))
    right = class_of(row, "label", ("0", "1")) == "1"
    return Question(f"Goal: {goal}", ways[right], [ways[not right]], goal, "Does this reach the goal?")


def social_i_qa(row: Row) -> Question:
    """Three answers to a question about a social situation."""
    answers = [text_of(row, column) for column in ("answerA", "answerB", "answerC")]
    return question(text_of(row, "question"), number_of(row, "label") - 1, answers, passage=text_of(row, "context"))


def _recipe(
    name: str, hub: str, columns: tuple[str, ...], question_of: Callable[[Row], Question], **description: Any
) -> Recipe:
    """Return the recipe of questions with several answers, with classes or pairs."""
    return Recipe(
        name=name,
        hub=hub,
        format=Format("classes", columns, lambda row: question_of(row).as_classes(), YES_NO),
        pairs=Format("pairs", columns, lambda row: question_of(row).as_pairs(), PAIR_CLASSES),
        **description,
    )


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
COSMOS_QA = _recipe(
    name="cosmos_qa",
    hub="allenai/cosmos_qa",
    columns=("context", "question", "answer0", "answer1", "answer2", "answer3", "label"),
    question_of=cosmos_qa,
    licence="CC BY 4.0",
    citation="Huang et al. 2019",
    protocol="is this answer right? one right and one wrong per question, none answered by none of the above",
    test="validation",
    num_rows=25_262 + 2_985,
)
DREAM = _recipe(
    name="dream",
    hub="dataset-org/dream",
    columns=("dialogue", "question", "choice", "answer"),
    question_of=dream,
    licence="non-commercial research",
    citation="Sun et al. 2019",
    protocol="is this answer right? one right and one wrong per question",
    test="test",
    num_rows=6_116 + 2_041,
)
QUAIL = _recipe(
    name="quail",
    hub="textmachinelab/quail",
    columns=("context", "question", "answers", "correct_answer_id"),
    question_of=quail,
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
SCIQ = _recipe(
    name="sciq",
    hub="allenai/sciq",
    columns=SCIQ_COLUMNS,
    question_of=sciq,
    licence="CC BY-NC 3.0",
    citation="Welbl, Liu and Gardner 2017",
    protocol="is this answer right? one right and one wrong per question",
    test="test",
    num_rows=11_679 + 1_000,
)
OPENBOOKQA = _recipe(
    name="openbookqa",
    hub="allenai/openbookqa",
    columns=("question_stem", "choices", "answerKey"),
    question_of=openbookqa,
    subset="main",
    licence="not stated",
    citation="Mihaylov et al. 2018",
    protocol="is this answer right? one right and one wrong per question",
    test="validation+test",
    num_rows=4_957 + 1_000,
)
QUARTZ = _recipe(
    name="quartz",
    hub="allenai/quartz",
    columns=("question", "choices", "answerKey", "para"),
    question_of=quartz,
    licence="CC BY 4.0",
    citation="Tafjord et al. 2019",
    protocol="is this answer right? one right and one wrong per question",
    test="validation+test",
    num_rows=2_696 + 384 + 784,
)
HELLASWAG = _recipe(
    name="hellaswag",
    hub="Rowan/hellaswag",
    columns=("ctx", "endings", "label"),
    question_of=hellaswag,
    licence="MIT",
    citation="Zellers et al. 2019",
    protocol="is this how it goes on? one right and one wrong ending per beginning",
    test="validation",
    num_rows=39_905 + 10_042,
    version=2,
)
PIQA = _recipe(
    name="piqa",
    hub="ybisk/piqa",
    columns=("goal", "sol1", "sol2", "label"),
    question_of=piqa,
    licence="not stated",
    citation="Bisk et al. 2020",
    protocol="does this reach the goal? one right and one wrong way per goal",
    test="validation",
    num_rows=16_113 + 1_838,
)
SOCIAL_I_QA = _recipe(
    name="social_i_qa",
    hub="allenai/social_i_qa",
    columns=("context", "question", "answerA", "answerB", "answerC", "label"),
    question_of=social_i_qa,
    licence="not stated",
    citation="Sap et al. 2019",
    protocol="is this answer right? one right and one wrong per question",
    test="validation",
    num_rows=33_410 + 1_954,
)
