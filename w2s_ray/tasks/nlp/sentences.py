"""Single sentences and pairs of sentences. Examples that share a sentence, a premise or a word are related.

The validation splits of CoLA and WiC are too small for a balanced test set; they are part of the pool.
"""

from collections.abc import Iterable

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import Example, Format, class_of, digest, text_of
from w2s_ray.tasks.nlp.questions import YES_NO
from w2s_ray.tasks.rows import Row


def cola(row: Row) -> Iterable[Example]:
    """A sentence that linguists judge as acceptable or not."""
    sentence = text_of(row, "sentence")
    yield Example(f"{sentence}\nIs this sentence grammatical?", digest(sentence), class_of(row, "label", YES_NO))


def anli(row: Row) -> Iterable[Example]:
    """A premise and a hypothesis: entailed, or else neutral or contradicted, which are one class."""
    premise = text_of(row, "premise")
    text = f"{premise}\n\nHypothesis: {text_of(row, 'hypothesis')}\nDoes this follow?"
    yield Example(text, digest(premise), class_of(row, "label", ("yes", "no", "no")))


def paws(row: Row) -> Iterable[Example]:
    """Two sentences with almost the same words; a sentence occurs in several pairs."""
    first, second = text_of(row, "sentence1"), text_of(row, "sentence2")
    text = f"First: {first}\nSecond: {second}\nDo they mean the same?"
    yield Example(text, digest(first), class_of(row, "label", YES_NO), ties=(digest(second),))


def wic(row: Row) -> Iterable[Example]:
    """A word in two sentences; related: the same word, or a shared sentence."""
    word, first, second = (text_of(row, column) for column in ("word", "sentence1", "sentence2"))
    text = f"First: {first}\nSecond: {second}\nDoes {word!r} mean the same in both?"
    label = class_of(row, "label", YES_NO)
    yield Example(text, digest(word), label, ties=(digest(first), digest(second)))


COLA = Recipe(
    name="cola",
    hub="nyu-mll/glue",
    subset="cola",
    format=Format("classes", ("sentence", "label"), cola, YES_NO),
    licence="research use",
    citation="Warstadt, Singh and Bowman 2019; GLUE, Wang et al. 2018",
    protocol="is this sentence grammatical?",
    pool="train+validation",
    num_rows=8_551 + 1_043,
)
ANLI_R2 = Recipe(
    name="anli_r2",
    hub="facebook/anli",
    format=Format("classes", ("premise", "hypothesis", "label"), anli, YES_NO),
    licence="CC BY-NC 4.0",
    citation="Nie et al. 2020",
    protocol="does the hypothesis follow, or not (neutral or contradicted)?",
    pool="train_r2",
    test="dev_r2+test_r2",
    num_rows=45_460 + 2_000,
)
PAWS = Recipe(
    name="paws",
    hub="google-research-datasets/paws",
    subset="labeled_final",
    format=Format("classes", ("sentence1", "sentence2", "label"), paws, YES_NO),
    licence="free, with acknowledgement",
    citation="Zhang, Baldridge and He 2019",
    protocol="do the two sentences mean the same?",
    test="test",
    num_rows=49_401 + 8_000,
)
WIC = Recipe(
    name="wic",
    hub="aps/super_glue",
    subset="wic",
    format=Format("classes", ("word", "sentence1", "sentence2", "label"), wic, YES_NO),
    licence="CC BY-NC 4.0",
    citation="Pilehvar and Camacho-Collados 2019; SuperGLUE, Wang et al. 2019",
    protocol="does the word mean the same in both sentences?",
    pool="train+validation",
    num_rows=5_428 + 638,
)
