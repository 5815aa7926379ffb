"""What workers send each other while a large model computes in bf16, seen in the collectives themselves."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.conftest import Moods, make_tiny, sharding
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Optimisation
from w2s_ray.training import zero
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import evaluating

_STEPS, _RATE = 4, 1e-3


class Traffic(TorchDispatchMode):
    """Counts the elements that collectives carry, by type."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            tensors = [value for value in torch.utils._pytree.tree_leaves(args) if isinstance(value, torch.Tensor)]
            self.elements.update({tensor.dtype: tensor.numel() for tensor in tensors[:1]})
        return function(*args, **(kwargs or {}))


def train(stage: str, folder: Path, zero_stage: int, large: int) -> dict[str, Any]:
    """Train a tiny model in bf16 as if models of `large` parameters were large ones; return what this rank saw."""
    spec = PlannedStage.model_validate_json(stage).spec
    execution, rank = Execution(zero_stage=zero_stage, workers=dist.get_world_size()), dist.get_rank()
    before, zero.LARGE_MODEL = zero.LARGE_MODEL, large
    generator = torch.Generator().manual_seed(rank)
    texts = torch.randint(2, 100, (_STEPS, 8, 12), generator=generator)
    last = torch.full((8,), 11)
    try:
        with sharding("ahead"):
            network = load_network(spec, folder, load_tokenizer(folder, None), execution)
            engine = zero.Engine(network, execution, Optimisation(precision="bf16"))
            losses = []
            with Traffic() as traffic:
                for tokens in texts:
                    loss = torch.logsumexp(engine(tokens, last), dim=-1).mean()
                    engine.backward(loss, is_last=True)
                    engine.step(_RATE)
                    losses.append(float(loss))
            with evaluating(network), Traffic() as precise:
                probs = network(texts[0], last).softmax(dim=-1).numpy()
            network.predicts_in = "bf16"
            with evaluating(network), Traffic() as rounded:
                network(texts[0], last)
            weights = engine.gather(engine.saved_bytes, keeps=True)
            weights = {name: weight.clone() for name, weight in weights.items()}
            engine.destroy()
    finally:
        zero.LARGE_MODEL = before
    return {
        "losses": losses,
        "training": traffic.elements,
        "precise": precise.elements,
        "rounded": rounded.elements,
        "probs": probs,
        "weights": weights,
        "tokens": texts[0],
    }


def work(rank: int, stage: str, folder: str, meeting: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    results = {
        (zero_stage, large): train(stage, Path(folder), zero_stage, large)
        for zero_stage in (1, 2, 3)
        for large in (10**9, 1)
    }
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[int, int], dict[str, Any]], Any]:
    folder = tmp_path_factory.mktemp("exchange")
    tiny = make_tiny(folder, Moods())
    stage = tiny.chain().find("ceiling", "large")
    assert stage is not None
    spec = stage.spec.model_copy(
        update={"optimisation": stage.spec.optimisation.model_copy(update={"precision": "bf16"})}
    )
    stage = stage.model_copy(update={"spec": spec})
    model = tiny.store.root.parent / "large"
    arguments = (stage.model_dump_json(), str(model), str(folder / "meeting"), str(folder / "results"))
    torch.multiprocessing.spawn(work, arguments, nprocs=2)
    results = torch.load(folder / "results", weights_only=False)
    return results, load_network(spec, model, load_tokenizer(model, None), Execution())


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_linear_weights_of_large_models_travel_in_bf16(seen: Any, zero_stage: int) -> None:
    small, large = seen[0][zero_stage, 10**9], seen[0][zero_stage, 1]
    assert small["training"][torch.bfloat16] == 0
    assert large["training"][torch.bfloat16] > 0
    assert large["training"][torch.float32] < small["training"][torch.float32]
    np.testing.assert_allclose(large["losses"], small["losses"], rtol=5e-3)


def test_predictions_gather_weights_in_the_precision_that_they_compute_in(seen: Any) -> None:
    results, network = seen
    large = results[3, 1]
    assert large["precise"][torch.bfloat16] == 0
    assert large["rounded"][torch.bfloat16] > 0
    with evaluating(network):
        network.load_state_dict(large["weights"])
        whole = network(large["tokens"], torch.full((8,), 11)).softmax(dim=-1).numpy()
    np.testing.assert_allclose(large["probs"], whole, atol=1e-6)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_weights_that_were_exchanged_in_bf16_are_saved_in_fp32(seen: Any, zero_stage: int) -> None:
    weights = seen[0][zero_stage, 1]["weights"]
    matrices = [weight for name, weight in weights.items() if "proj" in name]
    assert matrices and {weight.dtype for weight in matrices} == {torch.float32}
    assert all((weight != weight.bfloat16().float()).float().mean() > 0.5 for weight in matrices)
