"""The natural language tasks of Burns et al. 2023 (appendix A.1), made binary; one small format for each."""

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.nlp.science import SCIQ

RECIPES: tuple[Recipe, ...] = (SCIQ,)
