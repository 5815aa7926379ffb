"""The natural language tasks of Burns et al. 2023 (appendix A.1), made binary, and one more of its public code.

One small format each, by family. Where the authors keep the labels of a test split, the validation split serves.
"""

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.nlp import commonsense, ethics, reading, science, sentences, sentiment

RECIPES: tuple[Recipe, ...] = (
    reading.BOOLQ,
    reading.COSMOS_QA,
    reading.DREAM,
    ethics.DEONTOLOGY,
    ethics.JUSTICE,
    ethics.VIRTUE,
    ethics.UTILITARIANISM,
    sentences.ANLI_R2,
    sentences.COLA,
    sentiment.SST2,
    commonsense.HELLASWAG,
    reading.MC_TACO,
    science.OPENBOOKQA,
    sentences.PAWS,
    reading.QUAIL,
    commonsense.PIQA,
    science.QUARTZ,
    science.SCIQ,
    commonsense.SOCIAL_I_QA,
    reading.MULTIRC,
    sentences.WIC,
    sentiment.TWITTER_SENTIMENT,
    sentiment.AMAZON_POLARITY,
)
