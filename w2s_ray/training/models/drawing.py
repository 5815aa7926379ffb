"""Random weights under ZeRO-3: each module is sharded as soon as it is drawn, so no process holds the whole model.

The values are those of an unsharded model. Every rank draws all of them on its CPU, from the same generator and in the
same order, and keeps its share. `deepspeed.zero.Init` alone would draw on the device, and transformers would initialise
parameters that are sharded already, which are empty.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from w2s_ray.spec.execution import Execution
from w2s_ray.training.engine_config import loading_config
from w2s_ray.training.zero import gathered


@contextmanager
def sharded_drawing(execution: Execution) -> Iterator[None]:
    """Under ZeRO-3, shard the parameters of the model that is made inside the block; collective."""
    if execution.zero_stage != 3:
        yield
        return
    import deepspeed  # zero.py sets the environment that it reads
    from deepspeed.runtime.zero import partition_parameters

    constructors = {  # otherwise tensors are made on the device
        "zero_wrapper_for_fp_tensor_constructor": lambda function, *_, **__: function,
        "get_new_tensor_fn_for_dtype": lambda *_, **__: torch.Tensor.__new__,
    }
    initialise = PreTrainedModel._initialize_weights

    def initialise_gathered(hf: PreTrainedModel, module: nn.Module, *others: Any) -> None:
        if getattr(module, "_is_hf_initialized", False):
            return
        children = [child for child in module.children() if not isinstance(child, PreTrainedModel)]
        own = [weight for part in (module, *children) for weight in part.parameters(recurse=False)]
        with gathered(own):
            held = [weight.data for weight in own]
            for weight in own:
                weight.data = weight.data.cpu()
            initialise(hf, module, *others)
            for weight, data in zip(own, held, strict=True):
                weight.data = data.copy_(weight.data)

    with ExitStack() as stack:
        for name, constructor in constructors.items():
            stack.enter_context(_replaced(partition_parameters, name, constructor))
        stack.enter_context(_replaced(PreTrainedModel, "_initialize_weights", initialise_gathered))
        stack.enter_context(deepspeed.zero.Init(config_dict_or_path=loading_config(execution)))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
