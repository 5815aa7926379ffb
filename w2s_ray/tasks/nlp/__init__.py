"""The natural language tasks of Burns et al. 2023 (appendix A.1) as binary tasks, and one more from its public code.

Each task is a small format and a recipe. If the labels of a test split are not public, the validation split is used.
"""

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.nlp import ethics, questions, sentences, sentiment

RECIPES: tuple[Recipe, ...] = (
    questions.BOOLQ,
    questions.COSMOS_QA,
    questions.DREAM,
    ethics.DEONTOLOGY,
    ethics.JUSTICE,
    ethics.VIRTUE,
    ethics.UTILITARIANISM,
    sentences.ANLI_R2,
    sentences.COLA,
    sentiment.SST2,
    questions.HELLASWAG,
    questions.MC_TACO,
    questions.OPENBOOKQA,
    sentences.PAWS,
    questions.QUAIL,
    questions.PIQA,
    questions.QUARTZ,
    questions.SCIQ,
    questions.SOCIAL_I_QA,
    questions.MULTIRC,
    sentences.WIC,
    sentiment.TWITTER_SENTIMENT,
    sentiment.AMAZON_POLARITY,
)
