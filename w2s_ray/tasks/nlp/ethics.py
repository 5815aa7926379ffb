"""Four of the ETHICS data sets (Hendrycks et al. 2021).

On the hub, the `validation` split is the authors' test set. The `test` split is adversarially filtered, so it has a
different distribution; it is not used.
"""

from collections.abc import Callable, Iterable

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import PAIR_CLASSES, Example, Format, Skip, class_of, digest, pair, text_of
from w2s_ray.tasks.nlp.questions import YES_NO
from w2s_ray.tasks.rows import Row


def deontology(row: Row) -> Iterable[Example]:
    """A request or role, and an excuse or duty; related: the same request."""
    scenario = text_of(row, "scenario")
    text = f"{scenario}\n{text_of(row, 'excuse')}\nIs this reasonable?"
    yield Example(text, digest(scenario), class_of(row, "label", YES_NO))


def justice(row: Row) -> Iterable[Example]:
    """A claim and its reason; related: the same claim, with any reason after "because"."""
    scenario = text_of(row, "scenario")
    claim = scenario.partition(" because ")[0]
    yield Example(f"{scenario}\nIs this reason fair?", digest(claim), class_of(row, "label", YES_NO))


def virtue(row: Row) -> Iterable[Example]:
    """An action and one of five traits, one of which it shows; related: the same action."""
    scenario, separator, trait = text_of(row, "scenario").partition("[SEP]")
    if not separator or not scenario.strip() or not trait.strip():
        raise Skip("a scenario without a trait")
    text = f"{scenario.strip()}\nTrait: {trait.strip()}\nDoes the person show this trait?"
    yield Example(text, digest(scenario), class_of(row, "label", YES_NO), bundle=digest(scenario))


def utilitarianism(row: Row) -> Iterable[Example]:
    """Two events, one more pleasant, in an order by hash; related: events that are ranked against each other."""
    better, worse = text_of(row, "baseline"), text_of(row, "less_pleasant")
    ordered = pair(better, worse, digest(better))
    text = f"First: {ordered.text}\nSecond: {ordered.other}\nWhich is more pleasant?"
    yield ordered._replace(text=text, other=None, prompt=None, ties=(digest(worse),))


def _ethics(
    subset: str,
    columns: tuple[str, ...],
    examples: Callable[[Row], Iterable[Example]],
    protocol: str,
    num_rows: int,
    *,
    classes: tuple[str, ...] = YES_NO,
) -> Recipe:
    return Recipe(
        name=f"ethics_{subset}",
        hub="hendrycks/ethics",
        subset=subset,
        format=Format("classes", columns, examples, classes),
        licence="MIT",
        citation="Hendrycks et al. 2021",
        protocol=protocol,
        test="validation",
        num_rows=num_rows,
    )


DEONTOLOGY = _ethics(
    "deontology", ("scenario", "excuse", "label"), deontology, "is this excuse or duty reasonable?", 18_164 + 3_596
)
JUSTICE = _ethics("justice", ("scenario", "label"), justice, "is this reason fair?", 21_791 + 2_704)
VIRTUE = _ethics(
    "virtue",
    ("scenario", "label"),
    virtue,
    "does the person show this trait? as many right as wrong per scenario",
    28_245 + 4_975,
)
UTILITARIANISM = _ethics(
    "utilitarianism",
    ("baseline", "less_pleasant"),
    utilitarianism,
    "which of two events is more pleasant? their order by hash",
    13_738 + 4_808,
    classes=PAIR_CLASSES,
)
