"""What of this process's environment goes along to the machines of a cluster, by a connection and by a job alike."""

import os

PASSED_ON = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_ENTITY", "HF_TOKEN", "HF_ENDPOINT")
"""Where results and models are, and the keys to them."""


def passed_on() -> dict[str, str]:
    """Return those of the variables that are set here."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}
