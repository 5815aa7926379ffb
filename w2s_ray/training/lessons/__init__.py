"""What a stage's objective makes of its data: examples to learn, a check on Vi, and predictions to keep.

    objective        examples                         check on Vi                     predictions
    classification   a text, a probability per class  agreement with its labels       a probability per class
    preference       two texts, likewise              likewise                        likewise
    answer           a text and what follows it       share of equal answers          the answers, greedily
    next_token       blocks of text                   loss on held-out text           none

A stage that only prompts has the same check and predictions, and examples that nobody learns.
"""

from w2s_ray.training.lessons.choice import lesson_of
from w2s_ray.training.lessons.protocol import ACCURACY, AGREEMENT, HELD_OUT, Lesson, Material

__all__ = ["ACCURACY", "AGREEMENT", "HELD_OUT", "Lesson", "Material", "lesson_of"]
