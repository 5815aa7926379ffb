"""What of this process's environment goes along to the machines of a cluster, by a connection and by a job alike."""

import os

PASSED_ON = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_ENTITY", "HF_TOKEN", "HF_ENDPOINT")
"""Where results and models are, and the keys to them."""
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Workers take memory from the kernel in huge pages, so that giving it back at once costs little (docs/memory.md).

glibc reads it when a process starts.
"""


def passed_on() -> dict[str, str]:
    """Return those of the variables that are set here, and what the workers' allocator is told."""
    return ALLOCATOR | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
