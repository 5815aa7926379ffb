"""DeepSpeed's configuration for a stage: ours, then the keys that the study gives under `execution.deepspeed`."""

from typing import Any

import torch

from w2s_ray.spec.base import merged
from w2s_ray.spec.deepspeed_keys import nested
from w2s_ray.spec.execution import Execution
from w2s_ray.training.memory.limits import LIMIT_KEYS, Limits, limits_for
from w2s_ray.training.placement import moves_to_host


def engine_config(execution: Execution, max_grad_norm: float, limits: Limits) -> dict[str, Any]:
    """Return DeepSpeed's configuration for one stage."""
    zero: dict[str, Any] = {
        "stage": execution.zero_stage,
        "reduce_bucket_size": limits.bucket,
        "allgather_bucket_size": limits.bucket,
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
        "round_robin_gradients": False,
    }
    if execution.zero_stage == 3:
        zero |= {key: getattr(limits, name) for key, name in LIMIT_KEYS.items()}
    on_host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if moves_to_host(execution):
        zero["offload_optimizer"] = on_host
    if execution.offload_parameters:
        zero["offload_param"] = on_host
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }
    return merged(config, nested(execution.deepspeed))


def loading_config(execution: Execution) -> dict[str, Any]:
    """Return the configuration for sharding a model while it is loaded, when its size is not known yet."""
    return engine_config(execution, 1.0, limits_for(1_000_000, 1))
