"""Texts without padding: packed rows give the logits, losses and gradients of padded ones."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch.nn.functional import scaled_dot_product_attention

from tests.training.conftest import Onlooker, Tiny
from tests.training.model_folders import ARCHITECTURES, GROUPED, PLAIN, SHORT, VOCABULARY, write_model
from w2s_ray.data.batches import partition
from w2s_ray.errors import ModelError
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import Optimisation, Score
from w2s_ray.spec.study import LevelSpec
from w2s_ray.training.feed import Examples, Feeder, LanguageExamples, MicroBatch, Packing
from w2s_ray.training.losses import TokenBatchLoss
from w2s_ray.training.models import attention
from w2s_ray.training.models.attention import use_attention
from w2s_ray.training.models.catalogue import PACKED_DECODERS, PACKED_ENCODERS, resolve_model
from w2s_ray.training.models.network import CompletionNetwork, Network, PairNetwork
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

LONE = Workers(0, 1, torch.device("cpu"))
LENGTHS = (3, 11, 1, 7, 20, 2)
CONFIGS: dict[str, Callable[[], tf.PretrainedConfig]] = ARCHITECTURES | {
    "gemma3_text": lambda: tf.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=8),
    "olmo": lambda: tf.OlmoConfig(**GROUPED),
    "olmo2": lambda: tf.Olmo2Config(**GROUPED),
    "phi3": lambda: tf.Phi3Config(**GROUPED, sliding_window=8, pad_token_id=0),
    "xlm-roberta": lambda: tf.XLMRobertaConfig(**SHORT, pad_token_id=0),
    "modernbert, mean": lambda: tf.ModernBertConfig(
        **SHORT, global_attn_every_n_layers=2, local_attention=8, classifier_pooling="mean"
    ),
}
CLASSIFIERS = [*sorted(PACKED_DECODERS | PACKED_ENCODERS), "modernbert, mean"]


def model_of(name: str, auto: type, *, std: float = 0.2) -> tf.PreTrainedModel:
    config = CONFIGS[name]()
    config.vocab_size, config.pad_token_id, config.num_labels = VOCABULARY, 0, 3
    config.bos_token_id, config.eos_token_id = 1, 2
    for key in list(vars(config)):
        if key.endswith(("dropout", "pdrop", "dropout_prob")):
            setattr(config, key, 0.0)
    torch.manual_seed(0)
    hf = auto.from_config(config, dtype=torch.float32)  # type: ignore[attr-defined]
    for parameter in hf.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    return hf  # type: ignore[no-any-return]


def texts(lengths: Sequence[int] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCABULARY, size=length).astype(np.int32) for length in lengths]


def both(network: Network, examples: Examples) -> tuple[MicroBatch, MicroBatch]:
    """The examples as padded rows and packed; the network can read both."""
    network.attention = use_attention(network.hf, "varlen", Optimisation(), "fp32", LONE)
    feeder = Feeder(examples, LONE, 1000, 0)
    order = np.arange(len(examples))
    return feeder.collate(order), network.fed_by(feeder).collate(order)


def compare(network: Network, examples: Examples) -> None:
    """Compare logits, and gradients of a function of them."""
    padded, packed = both(network, examples)
    assert packed.tokens_RT.shape == (1, sum(map(len, examples.tokens)))
    values, gradients = [], []
    for batch in (padded, packed):
        network.zero_grad()
        logits = network.train()(*batch.inputs)
        (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        values.append(logits.detach())
        gradients.append([weight.grad.clone() for weight in network.parameters() if weight.grad is not None])
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-5)
    assert len(gradients[0]) == len(gradients[1])
    scale = max(float(gradient.abs().max()) for gradient in gradients[0])  # those of keys' biases are rounding alone
    for packed_gradient, padded_gradient in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(packed_gradient / scale, padded_gradient / scale, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_packed_texts_give_the_classes_of_padded_ones(name: str) -> None:
    compare(Network(model_of(name, tf.AutoModelForSequenceClassification), "fp32"), Examples(tokens=texts()))


def test_the_docs_name_the_models_that_can_be_packed() -> None:
    text = (Path(__file__).parents[3] / "docs" / "architecture.md").read_text(encoding="utf-8")
    (names,) = re.findall(r"config\.json is one of: (.*?)\. Otherwise", text, re.DOTALL)
    assert set(names.replace("\n", " ").split(", ")) == PACKED_DECODERS | PACKED_ENCODERS


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_packed_pairs_give_the_logits_of_padded_ones(name: str) -> None:
    examples = Examples(tokens=texts(), texts_per_example=2)
    hf = model_of(name, tf.AutoModelForSequenceClassification)
    hf.config.num_labels = 1
    head = hf.score if name == "llama" else hf.classifier
    head.weight.data, head.out_features = head.weight.data[:1], 1
    if head.bias is not None:
        head.bias.data = head.bias.data[:1]
    compare(PairNetwork(hf, "fp32"), examples)


@pytest.mark.parametrize("calibrates", [False, True])
def test_packed_completions_get_the_scores_of_padded_ones(calibrates: bool) -> None:
    lengths = (9, 12, 8, 13, 3, 4, 2, 5) if calibrates else (9, 12, 8, 13)
    first = np.array([6, 8, 5, 9, 1, 1, 1, 1] if calibrates else [6, 8, 5, 9])
    examples = Examples(
        tokens=texts(lengths),
        texts_per_example=len(lengths) // 2,
        first=first,
        subtracted_NC=np.array([[0.5, 1.0], [2.0, 0.25]], dtype=np.float32),
    )
    network = CompletionNetwork(
        model_of("qwen2", tf.AutoModelForCausalLM), "fp32", Score(beta=2.0, calibrate=calibrates), 2
    )
    compare(network, examples)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt_neox", "gpt2", "mistral"])
def test_packed_texts_give_the_next_token_loss_of_padded_ones(name: str) -> None:
    examples = LanguageExamples(tokens=texts((9, 4, 15)), loss_from_N=np.array([3, 1, 14]))
    network = Network(model_of(name, tf.AutoModelForCausalLM), "fp32").train()
    padded, packed = (
        next(TokenBatchLoss(examples).values(network, [batch], np.arange(3), 0, 1)) for batch in both(network, examples)
    )
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)


def test_a_packed_filler_adds_no_loss() -> None:
    examples = LanguageExamples(tokens=texts((9,)), loss_from_N=np.array([3]))
    network = Network(model_of("llama", tf.AutoModelForCausalLM), "fp32").train()
    _, packed = both(network, examples)
    filler = replace(Feeder(examples, LONE, 1000, 0), packs=True).collate(np.arange(0))
    assert filler.tokens_RT.shape == (1, 2) and packed.tokens_RT.shape == (1, 9)
    (loss,) = TokenBatchLoss(examples).values(network, [filler], np.arange(1), 0, 1)
    assert float(loss.detach()) == 0.0


def test_a_prepared_model_still_generates_as_with_sdpa() -> None:
    hf = model_of("llama", tf.AutoModelForCausalLM).eval()
    tokens = torch.from_numpy(np.stack(texts((6, 6)))).long()
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    before = hf.generate(tokens, attention_mask=mask, max_new_tokens=5, do_sample=False)
    assert use_attention(hf, "varlen", Optimisation(), "fp32", LONE) == "varlen"
    assert torch.equal(hf.generate(tokens, attention_mask=mask, max_new_tokens=5, do_sample=False), before)


def test_exports_do_not_name_the_attention(tmp_path: Path) -> None:
    hf = model_of("llama", tf.AutoModelForCausalLM)
    use_attention(hf, "varlen", Optimisation(), "fp32", LONE)
    hf.save_pretrained(tmp_path)
    assert "w2s_varlen" not in (tmp_path / "config.json").read_text()


def test_the_package_flash_attn_gets_the_bounds_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def flash(q, k, v, bounds_q, bounds_k, longest_q, longest_k, *, softmax_scale, causal, window_size):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        calls.append((bounds_q.tolist(), longest_q, causal, window_size))
        return attention._text_by_text(q, k, v, packing, softmax_scale, window_size)

    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    packing = Packing.of(np.array([2, 3]), torch.device("cpu"))
    q, k, v = (torch.randn((1, heads, 5, 8), generator=torch.Generator().manual_seed(heads)) for heads in (4, 2, 2))
    mixed, _ = attention._attention("flash", torch.nn.Identity(), q, k, v, None, packing=packing)
    assert calls == [([0, 2, 5], 3, True, (-1, 0))]
    alone = scaled_dot_product_attention(q[:, :, 2:], k[:, :, 2:], v[:, :, 2:], is_causal=True, enable_gqa=True)
    torch.testing.assert_close(mixed[0, 2:], alone[0].transpose(0, 1))


def test_micro_batches_of_packed_texts_are_filled_by_their_real_tokens() -> None:
    lengths = np.array([50, 10, 10, 10, 10, 10])
    padded = partition(np.arange(6), lengths, world=1, tokens_per_micro_batch=100)
    packed = partition(np.arange(6), lengths, world=1, tokens_per_micro_batch=100, packs=True)
    assert ([len(piece) for piece in padded[0]], [len(piece) for piece in packed[0]]) == ([1, 5], [6])
    tight = partition(np.arange(6), lengths, world=2, tokens_per_micro_batch=60, packs=True)
    assert sorted(len(piece) for rank in tight for piece in rank) == [1, 5]


def test_auto_pads_on_a_cpu() -> None:
    hf = model_of("llama", tf.AutoModelForCausalLM)
    before = hf.config._attn_implementation
    assert use_attention(hf, "auto", Optimisation(), "bf16", LONE) == "sdpa"
    assert hf.config._attn_implementation == before


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_auto_packs_on_a_gpu_that_has_the_kernel(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    monkeypatch.setattr(attention, "_kernel_fault", lambda *arguments: "")
    gpu = Workers(0, 1, torch.device("cuda", 0))
    assert use_attention(model_of("llama", tf.AutoModelForCausalLM), "auto", Optimisation(), "fp32", gpu) == "sdpa"
    kind = use_attention(model_of("llama", tf.AutoModelForCausalLM), "auto", Optimisation(), "bf16", gpu)
    assert kind == ("varlen" if capability >= (8, 0) else "sdpa")
    if kind == "sdpa":
        with pytest.raises(ModelError, match=r"T4 has compute capability 7\.5"):
            use_attention(model_of("llama", tf.AutoModelForCausalLM), "varlen", Optimisation(), "bf16", gpu)


def broken(*arguments: object) -> torch.Tensor:
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (attention._mixed, ""),
        (broken, "no kernel image"),
        (lambda kind, q, k, v, *others: q * 0 + k * 0 + v, "off by"),
        (lambda kind, *tensors: attention._text_by_text(*tensors[:5], (-1, -1)), "off by"),  # not causal
    ],
)
def test_a_kernel_is_tried_before_texts_are_packed(
    kernel: Callable[..., torch.Tensor], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = attention._mixed

    def mixed(kind: attention.AttentionKind, q_MHD: torch.Tensor, *others: object) -> torch.Tensor:
        return (kernel if q_MHD.dtype == torch.bfloat16 else exact)(kind, q_MHD, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "_mixed", mixed)
    attention._kernel_fault.cache_clear()
    found = attention._kernel_fault("varlen", torch.device("cpu"), 64)
    attention._kernel_fault.cache_clear()
    assert fault in found and bool(found) == bool(fault)


def test_flash_is_tried_on_the_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(
        q_MHD: torch.Tensor, k_MHD: torch.Tensor, v_MHD: torch.Tensor, *bounds: Any, causal: bool, **_: Any
    ) -> torch.Tensor:
        assert q_MHD.dtype == torch.bfloat16 and causal, "flash_attn computes nothing else"
        packing = attention.Packing.of(np.array([5, 1, 9]), torch.device("cpu"))
        return attention._text_by_text(q_MHD, k_MHD, v_MHD, packing, None, (-1, 0))

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=kernel))  # type: ignore[arg-type]
    attention._kernel_fault.cache_clear()
    found = attention._kernel_fault("flash", torch.device("cpu"), 64)
    attention._kernel_fault.cache_clear()
    assert found == ""


@pytest.mark.parametrize("name", ["deberta_v2", "gemma2", "bloom"])
def test_a_model_that_cannot_be_packed_is_padded_or_refused(name: str) -> None:
    hf = model_of(name, tf.AutoModelForSequenceClassification)
    assert use_attention(hf, "auto", Optimisation(), "fp32", LONE) == "sdpa"
    with pytest.raises(ModelError) as refused:
        use_attention(hf, "varlen", Optimisation(), "fp32", LONE)
    assert hf.config.model_type in refused.value.message and refused.value.hint


@pytest.mark.parametrize(
    ("architecture", "optimisation", "execution", "value"),
    [
        ("gemma2", {}, {}, "gemma2"),
        ("llama", {"dropout": 0.1}, {}, "0.1"),
        ("llama", {"precision": "fp32"}, {"gpus_per_worker": 1.0}, "fp32"),
        ("wide", {"precision": "bf16"}, {"gpus_per_worker": 1.0}, "320"),
    ],
)
def test_a_study_that_asks_for_the_impossible_is_refused_before_it_runs(
    architecture: str, optimisation: dict[str, object], execution: dict[str, object], value: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", "llama" if architecture == "wide" else architecture, PLAIN)
    if architecture == "wide":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"head_dim": 320}))
    level = LevelSpec(
        model=str(folder),
        optimisation=Optimisation(context_tokens=16, **optimisation),  # type: ignore[arg-type]
        execution=Execution(attention="varlen", **execution),  # type: ignore[arg-type]
    )
    with pytest.raises(ModelError) as refused:
        resolve_model(level)
    assert value in refused.value.message and "auto" in refused.value.hint


@pytest.mark.parametrize(("num_heads", "gpus", "is_refused"), [(1, 1.0, True), (1, 0.0, False), (2, 1.0, False)])
def test_heads_that_only_a_cpu_can_pack_are_refused_for_a_gpu(num_heads: int, gpus: float, is_refused: bool) -> None:
    level = LevelSpec(
        model="w2s:small",
        architecture={"hidden_size": 512, "num_layers": 2, "num_heads": num_heads, "intermediate_size": 64},  # type: ignore[arg-type]
        optimisation=Optimisation(precision="bf16"),
        execution=Execution(attention="varlen", gpus_per_worker=gpus),
    )
    with pytest.raises(ModelError, match="512") if is_refused else nullcontext():
        resolve_model(level)


def test_flash_without_a_gpu_is_refused_when_the_study_is_read() -> None:
    raw = {
        "name": "x",
        "tasks": {"sst2": {"builtin": "sst2"}},
        "ladder": {"small": {"model": "w2s:small"}, "large": {"model": "w2s:large"}},
        "execution": {"attention": "flash"},
        "methods": {"naive": {}},
    }
    with pytest.raises(Exception, match="gpus_per_worker is 0"):
        parse_study(raw)


def test_a_packed_stage_predicts_what_a_padded_one_does(tiny: Tiny, alone: Workers) -> None:
    stage = tiny.chain().stages[0]
    probs = []
    for kind in ("sdpa", "varlen"):
        execution = stage.execution.model_copy(update={"attention": kind})
        run_stage(
            stage.model_copy(update={"execution": execution}), store=tiny.store, workers=alone, observer=Onlooker()
        )
        probs.append(tiny.store.read_predictions(stage.predicts[0].identity).probs_NC)
        for identity in (stage.identity, *(prediction.identity for prediction in stage.predicts)):
            record = tiny.store.find(identity)
            assert record is not None
            (tiny.store.verify(record) / "record.json").unlink()
    np.testing.assert_allclose(probs[1], probs[0], atol=1e-5)
    assert not np.array_equal(probs[1], probs[0])
