"""Sentiment: is a text positive or negative?

SST-2's training rows are some 6,900 sentences and phrases from them. A phrase of a test sentence must not be used for
training, so rows are related if one contains the other, word by word. Short phrases that occur in several sentences
("the film", "good") would connect almost all rows; they are left out. The test set is drawn from these rows too,
because the validation split has only 872 (a standard error of 0.017).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import Example, Format, Skip, class_of, digest, number_of, text_of
from w2s_ray.tasks.rows import Row

SENTIMENTS = ("negative", "positive")
CUE = "\nSentiment:"
SHORT_WORDS = 2
"""Phrases with at most this many words are left out if they occur in more than one sentence."""

Words = tuple[str, ...]
_COMMON = Skip("a short phrase of several sentences", is_fault=False)


def sst2(row: Row) -> Iterable[Example]:
    """A phrase or sentence of a film review; its id is its `idx`."""
    text, index = text_of(row, "sentence"), number_of(row, "idx")
    yield Example(text, digest(text), class_of(row, "label", SENTIMENTS), id=str(index))


def related_by_containment(examples: Sequence[Example]) -> list[Example | Skip]:
    """Tie every phrase to the sentences that contain it; the strata are `sentence` and `phrase`.

    A sentence is a text that no other text contains. Texts are visited from the longest to the shortest, and the parts
    of each sentence are marked as phrases, so a phrase is marked before it is visited.
    """
    words = [tuple(example.text.casefold().split()) for example in examples]
    sentences_of: dict[Words, set[str]] = defaultdict(set)
    known = set(words)
    lengths = sorted({len(text) for text in known})
    for text in sorted(known, key=lambda text: (-len(text), text)):
        if text not in sentences_of:
            name = digest("sentence", *text)
            for part in _parts(text, lengths):
                if part in known:
                    sentences_of[part].add(name)
    return [_tied(example, text, sentences_of) for example, text in zip(examples, words, strict=True)]


def _parts(text: Words, lengths: Sequence[int]) -> Iterable[Words]:
    """Yield every run of words in `text`, including itself, of one of the lengths."""
    for length in lengths:
        for start in range(len(text) - length + 1):
            yield text[start : start + length]


def _tied(example: Example, words: Words, sentences_of: dict[Words, set[str]]) -> Example | Skip:
    sentences = sentences_of[words]
    if len(sentences) > 1 and len(words) <= SHORT_WORDS:
        return _COMMON
    is_sentence = digest("sentence", *words) in sentences
    return example._replace(ties=tuple(sorted(sentences)), stratum="sentence" if is_sentence else "phrase")


def twitter_sentiment(row: Row) -> Iterable[Example]:
    """A tweet."""
    text = text_of(row, "text")
    yield Example(text, digest(text), class_of(row, "label", SENTIMENTS))


def amazon_polarity(row: Row) -> Iterable[Example]:
    """A product review with its title, which may be empty."""
    content = text_of(row, "content")
    text = "\n".join(filter(None, (str(row.get("title") or "").strip(), content)))
    yield Example(text, digest(content), class_of(row, "label", SENTIMENTS))


SST2 = Recipe(
    name="sst2",
    hub="stanfordnlp/sst2",
    format=Format("classes", ("idx", "sentence", "label"), sst2, SENTIMENTS, together=related_by_containment),
    cue=CUE,
    licence="research use",
    citation="Socher et al. 2013; GLUE, Wang et al. 2018",
    protocol="the sentiment of phrases and sentences, related by containment",
    num_rows=67_349,
)
TWITTER_SENTIMENT = Recipe(
    name="twitter_sentiment",
    hub="EleutherAI/twitter-sentiment",
    format=Format("classes", ("text", "label"), twitter_sentiment, SENTIMENTS),
    cue=CUE,
    licence="not stated",
    citation="EleutherAI",
    protocol="the sentiment of a tweet",
    test="test",
)
AMAZON_POLARITY = Recipe(
    name="amazon_polarity",
    hub="fancyzhx/amazon_polarity",
    format=Format("classes", ("title", "content", "label"), amazon_polarity, SENTIMENTS),
    cue=CUE,
    licence="Apache 2.0",
    citation="McAuley and Leskovec 2013; Zhang, Zhao and LeCun 2015",
    protocol="the sentiment of a review; the 3.6 million of the train split are not read",
    pool="test",
    num_rows=400_000,
)
