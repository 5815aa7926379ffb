"""The lesson that an objective asks for."""

from w2s_ray.training.lessons.answers import AnswerLesson
from w2s_ray.training.lessons.classes import ClassLesson
from w2s_ray.training.lessons.protocol import Lesson, Material
from w2s_ray.training.lessons.texts import TextLesson


def lesson_of(material: Material) -> Lesson:
    """Return the lesson that the stage's objective asks for."""
    match material.spec.objective:
        case "next_token":
            return TextLesson(material)
        case "answer":
            return AnswerLesson(material)
        case _:
            return ClassLesson(material)
