"""Which of a model's weights a stage trains: all of them, a head alone, low-rank additions, or none.

A student and its ceiling train alike, so a probe's PGR is measured against the probe's own ceiling; a second one,
against the ceiling that trains all weights, stands beside it (Burns et al. 2023, linear probing).
"""

from typing import Annotated, Literal

from pydantic import Field

from w2s_ray.spec.base import Fraction, Positive, Spec


class AllWeights(Spec):
    """Every weight, head included."""

    kind: Literal["all"] = "all"

    @property
    def label(self) -> str:
        """Short name for tables and slugs; nothing, because it is the rule."""
        return ""


class Probe(Spec):
    """A linear head on the frozen model's last hidden state."""

    kind: Literal["probe"] = "probe"

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return "probe"


class Lora(Spec):
    """Low-rank additions to the model's linear layers, merged into them when the stage is done (Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    rank: Positive = 8
    alpha: float = Field(default=16.0, gt=0)
    """The additions are scaled by alpha / rank."""
    dropout: Fraction = 0.0
    targets: tuple[str, ...] | None = None
    """Names of the modules that get them; every linear layer but the head where not given."""

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"lora{self.rank}"


class Prompt(Spec):
    """Nothing is trained: the pretrained language model reads the text, after some labelled ones, and names a class.

    Each class is scored by the mean log-probability of its name's tokens (Burns et al. 2023 prompts with
    weak-labelled shots from Ti; a ceiling's shots carry the true label).
    """

    kind: Literal["prompt"] = "prompt"
    num_shots: int = Field(default=0, ge=0)
    """Labelled examples that stand before each text: hard labels of the stage's own label source."""
    cue: str = "\nAnswer:"
    """Stands between a text and the class's name; a task of answers asks in its texts already, and none is added."""

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"{self.num_shots}-shot"


Trainable = Annotated[AllWeights | Probe | Lora | Prompt, Field(discriminator="kind")]
