"""What the optimizer is given; the engine itself is tested through whole stages."""

import torch
from torch import nn

from w2s_ray.training.zero import _parameter_groups


def test_matrices_decay_and_norms_biases_and_frozen_weights_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    decaying, others = _parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert [id(each) for each in decaying["params"]] == [id(model[0].weight)]
    assert {id(each) for each in others["params"]} == {
        id(each) for each in (model[0].bias, *model[1].parameters(), model[2].bias)
    }


def test_where_nothing_is_left_to_decay_there_is_no_empty_group() -> None:
    groups = _parameter_groups(nn.LayerNorm(4), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.0]
    assert all(torch.is_tensor(each) for each in groups[0]["params"])
