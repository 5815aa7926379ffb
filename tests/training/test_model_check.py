"""The model check: a model is refused with the reason, or what its stage predicts its export predicts too."""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, pipeline

from tests.training.conftest import Moods, Onlooker, Pairings, Replies, Tiny, make_tiny
from tests.training.model_folders import (
    ARCHITECTURES,
    BEGIN,
    BERT,
    BOTH,
    DECODERS,
    ENCODERS,
    PLAIN,
    ROBERTA,
    TOKENIZERS,
    VOCABULARY,
    XLNET,
    Tokens,
    exported,
    own_tokenizer,
    table,
    write_code,
    write_model,
)
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import ModelError, W2SError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.model_check import to_check
from w2s_ray.spec.stage import ModelSource
from w2s_ray.spec.study import LevelSpec
from w2s_ray.training import model_check, model_trial
from w2s_ray.training.model_check import check_model
from w2s_ray.training.models.catalogue import resolve_model
from w2s_ray.training.models.exports import renew_export
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

CONTEXT = 48
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LORA = {"kind": "lora", "rank": 2}
METHODS: dict[str, Any] = {
    "naive": {"arms": ["ceiling", "zero_shot"]},
    "lora": {"arms": ["ceiling"], "trainable": {"large": LORA}},
    "probe": {"arms": ["ceiling"], "trainable": {"large": {"kind": "probe"}}},
    "score": {"arms": ["ceiling"], "score": "likelihood"},
    "calibrated": {"arms": ["ceiling"], "score": {"calibrate": True}},
    "read": {"arms": ["ceiling"], "generative": {"large": {"context_tokens": 32}}},
}


class Way(NamedTuple):
    """A way of using a model: a planned stage of a task's study."""

    tiny: Tiny
    stage: PlannedStage

    def check(self, folder: Path, **source: Any) -> float:
        return check_model(to_check(self.stage, self.source(folder, **source)), self.tiny.store)

    def source(self, folder: Path, **source: Any) -> ModelSource:
        return ModelSource(name=str(folder), revision=str(folder), **source)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Way]:
    def made(task: Any, methods: dict[str, Any]) -> Tiny:
        settings = {"context_tokens": CONTEXT, "learning_rate": 1e-3, "examples_per_step": 16}
        splits = {"train_examples": 40, "validation_examples": 16}
        return make_tiny(tmp_path_factory.mktemp("ways"), task, methods=methods, optimisation=settings, splits=splits)

    def way(tiny: Tiny, method: str, arm: Any = "ceiling") -> Way:
        stage = tiny.chain(method).find(arm, "large")
        assert stage is not None
        return Way(tiny, stage)

    classes = made(Moods(), METHODS)
    heads = {name: METHODS[name] for name in ("naive", "lora", "score")} | {"naive": {"arms": ["ceiling"]}}
    pairs, replies = made(Pairings(), heads), made(Replies(), {"naive": {"arms": ["ceiling"]}})
    return {
        "classes": way(classes, "naive"),
        "zero_shot": way(classes, "naive", "zero_shot"),
        "lora": way(classes, "lora"),
        "probe": way(classes, "probe"),
        "score": way(classes, "score"),
        "calibrated": way(classes, "calibrated"),
        "texts": way(classes, "read", "generative"),
        "pairs": way(pairs, "naive"),
        "pairs lora": way(pairs, "lora"),
        "pairs score": way(pairs, "score"),
        "answers": way(replies, "naive"),
    }


HEADS = ("classes", "lora", "probe", "pairs", "pairs lora")
LANGUAGE = ("zero_shot", "score", "calibrated", "texts", "pairs score", "answers")


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def refused(way: Way, folder: Path, *parts: str, **source: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        way.check(folder, **source)
    for part in parts:
        assert part in str(caught.value), caught.value
    assert caught.value.hint
    return caught.value


def trained(
    way: Way, folder: Path, workers: Workers, tmp_path: Path, pad_token: str | None = None, **execution: Any
) -> tuple[Path, np.ndarray]:
    """Train a stage; return its model's folder and its test predictions."""
    spec = way.stage.spec.model_copy(update={"starts_from": way.source(folder, pad_token=pad_token)})
    test = way.stage.test_prediction
    assert test is not None
    predicts = (test.model_copy(update={"stage": spec.identity}),)
    changes = {"spec": spec, "predicts": predicts, "execution": Execution(**execution)}
    stage = way.stage.model_copy(update=changes)
    store = type(way.tiny.store)(tmp_path / f"store-{len(list(tmp_path.iterdir()))}")
    store.prepare()
    (store.root / "data").rmdir()
    (store.root / "data").symlink_to(way.tiny.store.root / "data")
    run_stage(stage, store=store, workers=workers, observer=Onlooker())
    record = store.find(stage.identity)
    assert record is not None
    return store.verify(record) / "model", store.read_predictions(predicts[0].identity).probs_NC


def test_the_table_of_the_docs_is_what_the_check_finds(ways: dict[str, Way], tmp_path: Path) -> None:
    found: dict[str, dict[str, bool]] = {}
    for name in ARCHITECTURES:
        folder = write_model(tmp_path / name, name, own_tokenizer(name))
        found[name] = {}
        for way in ("lora", "pairs", "score", "answers"):
            try:
                level = LevelSpec(model=str(folder), optimisation={"context_tokens": CONTEXT})
                resolve_model(level, language_key="a key" if way in LANGUAGE else "")
                ways[way].check(folder)
                found[name][way] = True
            except ModelError:
                found[name][way] = False
    assert table(found) in PAGE.read_text(encoding="utf-8"), f"docs/models.md needs this table:\n{table(found)}"
    assert sum(found[name]["lora"] for name in found) >= 20
    assert all(all(found[name].values()) for name in DECODERS)
    assert all(found[name] == {"lora": True, "pairs": True, "score": False, "answers": False} for name in ENCODERS)


def test_a_decoder_whose_tokenizer_ends_texts_exports_one_that_does_not(
    ways: dict[str, Way], tmp_path: Path, alone: Workers
) -> None:
    folder = write_model(tmp_path / "m", "llama", BOTH)
    assert ways["classes"].check(folder) <= 1
    model, probs_NC = trained(ways["classes"], folder, alone, tmp_path)
    for batch in (1, 8):
        np.testing.assert_allclose(exported(ways["classes"], model, batch), probs_NC, atol=1e-5)


@pytest.mark.parametrize("way", HEADS[:1] + LANGUAGE)
def test_a_tokenizer_that_ends_texts_is_read_as_the_stage_does(ways: dict[str, Way], tmp_path: Path, way: str) -> None:
    for number, tokens in enumerate((BOTH, replace(BOTH, pad="</s>"), Tokens(after=("</s>",)))):
        assert ways[way].check(write_model(tmp_path / str(number), "llama", tokens)) <= 1


@pytest.mark.parametrize("way", ["classes", "answers"])
def test_an_export_of_an_earlier_version_is_changed_to_predict_what_its_stage_did(
    ways: dict[str, Way], tmp_path: Path, way: str
) -> None:
    folder = edit(write_model(tmp_path / "m", "llama", BOTH), problem_type="regression")
    renew_export(folder, ways[way].stage.spec)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("a b")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["<s>", "a", "b"]
    assert encoded.keys() == {"input_ids", "attention_mask"} and tokenizer.pad_token == "<pad>"
    assert ("problem_type" in json.loads((folder / "config.json").read_text())) == (way == "answers")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    renew_export(folder, ways[way].stage.spec)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_segments_of_a_tokenizer_that_the_stage_does_not_read_are_not_exported(
    ways: dict[str, Way], tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "m", "gpt2", replace(BEGIN, names=BERT.names))
    assert ways["classes"].check(folder) <= 1
    segmented = replace(BERT, segment=1)
    assert ways["classes"].check(write_model(tmp_path / "bert", "bert", segmented)) <= 1


@pytest.mark.parametrize("way", HEADS)
def test_a_model_that_pools_at_the_padding_is_refused(ways: dict[str, Way], tmp_path: Path, way: str) -> None:
    refused(ways[way], write_model(tmp_path / "m", "xlnet", XLNET), "longer texts beside it")


def test_a_router_without_gradients_is_refused_where_it_is_trained(ways: dict[str, Way], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "mixtral", BEGIN, num_experts_per_tok=1)
    for way in ("classes", "pairs", "score", "texts"):
        refused(ways[way], folder, "routers", "no gradients")
    for way in ("probe", "lora", "zero_shot"):
        assert ways[way].check(folder) <= 1


def test_a_model_that_trains_on_some_lengths_only_is_refused(ways: dict[str, Way], tmp_path: Path) -> None:
    refused(ways["classes"], write_model(tmp_path / "m", "reformer", BEGIN), "multiple")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("esm", {}),  # its `token_dropout` is no rate
        ("opt", {"layerdrop": 0.5, "return_dict": False}),
        ("mixtral", {"router_jitter_noise": 0.2}),
        ("t5", {"dropout_rate": 0.3}),
        ("bert", {"id2label": {"0": "same", "1": "same"}, "label2id": {"same": 0}}),
    ],
)
def test_settings_that_would_change_training_or_labels_are_replaced(
    ways: dict[str, Way], tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    tokens = ROBERTA if name in ("esm", "t5") else own_tokenizer(name)
    assert ways["classes"].check(edit(write_model(tmp_path / "m", name, tokens), **changes)) <= 1


def test_settings_of_a_source_do_not_change_what_an_export_writes(ways: dict[str, Way], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "llama", BEGIN)
    settings = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 9.0, "suppress_tokens": [50, 60]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert ways["answers"].check(folder) <= 1


def test_the_export_of_an_encoder_and_decoder_has_as_many_labels_as_the_task(
    ways: dict[str, Way], tmp_path: Path, alone: Workers
) -> None:
    folder = write_model(tmp_path / "m", "bart", ROBERTA)
    model, probs_NC = trained(ways["classes"], folder, alone, tmp_path)
    for batch in (1, 8):
        np.testing.assert_allclose(exported(ways["classes"], model, batch), probs_NC, atol=1e-5)


def test_a_model_that_reads_otherwise_after_a_short_text_is_refused(ways: dict[str, Way], tmp_path: Path) -> None:
    refused(ways["classes"], write_model(tmp_path / "m", "big_bird", BERT), "texts read before it")


@pytest.mark.parametrize("name", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("way", LANGUAGE)
def test_an_encoder_is_no_language_model(ways: dict[str, Way], tmp_path: Path, name: str, way: str) -> None:
    refused(ways[way], write_model(tmp_path / "m", name, own_tokenizer(name)), "later tokens change the logits")


@pytest.mark.parametrize(
    "change",
    [
        {"problem_type": "multi_label_classification"},
        {"problem_type": "regression"},
        {"problem_type": "regression", "function_to_apply": "none"},
    ],
)
def test_an_export_reads_its_logits_as_classes(
    ways: dict[str, Way], tmp_path: Path, alone: Workers, change: dict[str, str]
) -> None:
    way = ways["classes"]
    folder = edit(write_model(tmp_path / "m", "bert", BERT, head=2), **change)
    assert way.check(folder) <= 1
    model, probs_NC = trained(way, folder, alone, tmp_path)
    assert way.stage.test_prediction is not None
    texts = way.tiny.prepared.texts(rows_of_split(way.tiny.prepared, way.stage.test_prediction.split))
    answers = pipeline("text-classification", model=str(model), device="cpu")(texts, top_k=None, truncation=True)
    scores = [[score for _, score in sorted((each["label"], each["score"]) for each in row)] for row in answers]
    np.testing.assert_allclose(scores, probs_NC, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "most"),
    [
        ("roberta", {"max_position_embeddings": 44}, 43),
        ("bert", {"max_position_embeddings": 44}, 44),
        ("gpt2", {"n_positions": 44}, 44),
        ("opt", {"max_position_embeddings": 44}, 44),
        ("mpnet", {"max_position_embeddings": 44}, 43),
    ],
)
def test_the_most_positions_are_tried_and_named(
    ways: dict[str, Way], tmp_path: Path, name: str, changes: dict[str, int], most: int
) -> None:
    folder = write_model(tmp_path / "m", name, own_tokenizer(name), **changes)
    error = refused(ways["classes"], folder, f"context_tokens is {CONTEXT}")
    assert f"can read {most} tokens" in error.message and f"to {most}," in error.hint


def test_a_padding_token_beyond_the_embeddings_is_refused_with_one_that_works(
    ways: dict[str, Way], tmp_path: Path
) -> None:
    tokens = Tokens(before=(), pad="[PAD]", extra=("<new>",))
    folder = write_model(tmp_path / "m", "gpt2", tokens)
    assert ways["classes"].check(folder) <= 1, "a special token that no text has needs no embedding"
    folder = write_model(tmp_path / "n", "gpt2", replace(tokens, pad="<new>"))
    for way in ("classes", "answers", "score"):
        error = refused(ways[way], folder, f"embeddings for {VOCABULARY} tokens", "'<new>'")
        assert "pad_token: '</s>'" in error.hint
    assert ways["classes"].check(folder, pad_token="</s>") <= 1


def with_new_padding(folder: Path, name: str, *, special: bool = True) -> Path:
    """A model whose tokenizer got `[NEW]` as the padding token after it was trained."""
    write_model(folder, name, replace(PLAIN, pad=None))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[NEW]"], special_tokens=special)
    tokenizer.pad_token = "[NEW]"
    tokenizer.backend_tokenizer.enable_padding(pad_id=VOCABULARY, pad_token="[NEW]")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("way", ["classes", "pairs", "score", "answers"])
def test_the_token_that_the_refusal_of_a_new_padding_token_names_is_accepted(
    ways: dict[str, Way], tmp_path: Path, name: str, way: str
) -> None:
    folder = with_new_padding(tmp_path / "m", name)
    error = refused(ways[way], folder, f"embeddings for {VOCABULARY} tokens", "'[NEW]'")
    assert "pad_token: '</s>'" in error.hint
    assert ways[way].check(folder, pad_token="</s>") <= 1


def test_an_export_with_another_padding_token_gives_no_token_beyond_its_embeddings(
    ways: dict[str, Way], tmp_path: Path, alone: Workers
) -> None:
    folder, way = with_new_padding(tmp_path / "m", "llama"), ways["classes"]
    model, _ = trained(way, folder, alone, tmp_path, pad_token="</s>")
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = tokenizer(["a [NEW] b[NEW]", "a"], padding=True)
    plain = Tokenizer.from_file(str(model / "tokenizer.json"))
    plain.encode_special_tokens = True
    ids = [*encoded["input_ids"], *(each.ids for each in plain.encode_batch(["a [NEW] b[NEW]", "a"]))]
    assert max(map(max, ids)) < VOCABULARY
    assert tokenizer.pad_token == "</s>"


def test_a_new_token_that_a_text_can_have_is_refused_with_resizing_only(ways: dict[str, Way], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "gpt2", PLAIN)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["[NEW]"])
    tokenizer.save_pretrained(folder)
    error = refused(ways["classes"], folder, f"embeddings for {VOCABULARY} tokens", "'[NEW]'")
    assert "pad_token" not in error.hint and "resize_token_embeddings" in error.hint


@pytest.mark.parametrize("special", [True, False])
def test_the_plan_refuses_a_new_padding_token_without_the_weights(tmp_path: Path, special: bool) -> None:
    folder = with_new_padding(tmp_path / "m", "llama", special=special)
    level = LevelSpec(model=str(folder), optimisation={"context_tokens": CONTEXT})
    with pytest.raises(ModelError) as caught:
        resolve_model(level)
    assert f"embeddings for {VOCABULARY} tokens" in caught.value.message
    assert ("pad_token: '</s>'" in caught.value.hint) == special, "a text may have an ordinary token"
    if special:
        assert resolve_model(level.model_copy(update={"pad_token": "</s>"})).num_parameters


def test_a_padding_token_that_a_text_may_end_with_is_refused(ways: dict[str, Way], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "gpt2", PLAIN)
    refused(ways["classes"], folder, "'e'", "part of ordinary texts", pad_token="e")


@pytest.mark.parametrize("name", ["roberta", "bert", "gpt2", "distilbert"])
def test_a_head_with_another_number_of_classes_is_refused(ways: dict[str, Way], tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "m", name, own_tokenizer(name), head=3)
    refused(ways["classes"], folder, "(3, 16) and not (2, 16)", "without its head")
    assert ways["classes"].check(write_model(tmp_path / "n", name, own_tokenizer(name), head=2)) <= 1


@pytest.mark.parametrize("way", ["classes", "answers"])
def test_an_architecture_that_is_not_known_is_refused(ways: dict[str, Way], tmp_path: Path, way: str) -> None:
    folder = edit(write_model(tmp_path / "m", "llama", BEGIN), model_type="qwen9")
    error = refused(ways[way], folder, "qwen9")
    assert "trust_remote_code=" not in str(error)


@pytest.mark.parametrize("way", HEADS)
def test_an_architecture_without_a_classification_head_is_refused(
    ways: dict[str, Way], tmp_path: Path, way: str
) -> None:
    refused(ways[way], write_model(tmp_path / "m", "mamba", BEGIN), "no sequence classification head for Mamba")


def test_code_in_a_models_folder_runs_with_consent_only(ways: dict[str, Way], tmp_path: Path, alone: Workers) -> None:
    way = ways["classes"]
    folder = write_code(tmp_path / "m", BERT)
    error = refused(way, folder, "trust_remote_code: true")
    assert "trust_remote_code=" not in str(error)
    assert way.check(folder, trust_remote_code=True) <= 1
    plain = resolve_model(LevelSpec(model=str(folder), optimisation={"context_tokens": CONTEXT}))
    asked = LevelSpec(model=str(folder), optimisation={"context_tokens": CONTEXT}, trust_remote_code=True)
    trusted = resolve_model(asked)
    assert trusted.revision != plain.revision
    (code,) = folder.glob("modeling_*.py")
    code.write_text(code.read_text() + "\n# another version\n")
    assert resolve_model(asked).revision != trusted.revision, "the code is part of the model's digest"
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"modeling_own', '"another/repository--modeling_own', 1))
    assert "another/repository" in config.read_text()
    refused(way, folder, "another/repository", trust_remote_code=True)


def drop(folder: Path, part: str) -> Path:
    path = folder / "model.safetensors"
    weights = load_file(path)
    kept = {name: tensor for name, tensor in weights.items() if part not in name}
    assert len(kept) < len(weights)
    save_file(kept, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("way", ["classes", "score"])
def test_missing_weights_are_named(ways: dict[str, Way], tmp_path: Path, way: str) -> None:
    refused(ways[way], drop(write_model(tmp_path / "m", "llama", BEGIN), "layers.1."), "have no", "layers.1.")


def test_missing_weights_are_named_under_zero_3(ways: dict[str, Way], tmp_path: Path, alone: Workers) -> None:
    folder = drop(write_model(tmp_path / "m", "llama", BEGIN), "layers.1.")
    with pytest.raises(ModelError) as caught:
        trained(ways["classes"], folder, alone, tmp_path, zero_stage=3)
    assert "layers.1." in caught.value.message


def test_a_language_model_needs_its_output_embeddings_and_a_classifier_does_not(
    ways: dict[str, Way], tmp_path: Path
) -> None:
    folder = drop(write_model(tmp_path / "m", "llama", BEGIN), "lm_head")
    assert ways["classes"].check(folder) <= 1
    refused(ways["answers"], folder, "lm_head.weight")


def test_weights_that_are_not_finite_or_of_another_size_are_refused(ways: dict[str, Way], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "llama", BEGIN)
    refused(ways["classes"], edit(folder, intermediate_size=32), "do not fit", "(24, 16)")
    folder = write_model(tmp_path / "n", "llama", BEGIN)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for way in ("classes", "texts"):
        refused(ways[way], folder, "not finite: model.layers.0.mlp.up_proj.weight")
    folder = write_model(tmp_path / "o", "llama", BEGIN)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][-1] = torch.inf  # of a token that no text has
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(ways["classes"], folder, "not finite", "embed_tokens")


def test_adapters_pickled_and_quantized_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    def resolved(folder: Path) -> ModelError:
        with pytest.raises(ModelError) as caught:
            resolve_model(LevelSpec(model=str(folder), optimisation={"context_tokens": CONTEXT}))
        return caught.value

    folder = write_model(tmp_path / "m", "llama", BEGIN)
    error = resolved(edit(folder, quantization_config={"quant_method": "gptq", "bits": 4}))
    assert "gptq" in error.message and "dequantize" in error.hint
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in resolved(folder).hint
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/base"}))
    error = resolved(folder)
    assert "adapter of someone/base" in error.message and "merge_and_unload" in error.hint


def test_torn_weights_are_refused_when_the_model_is_resolved(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "llama", BEGIN)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        resolve_model(LevelSpec(model=str(folder), optimisation={"context_tokens": CONTEXT}))


def test_a_large_model_is_tried_with_its_first_layers(
    ways: dict[str, Way], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_trial, "WHOLE", 100)
    for name, kinds in (("gemma2", ["sliding_attention", "full_attention"]), ("gpt2", None), ("roberta", None)):
        layers = {"num_hidden_layers": 4, **({"layer_types": kinds * 2} if kinds else {})}
        folder = write_model(tmp_path / name, name, own_tokenizer(name), **layers)
        assert ways["classes"].check(folder) <= 1


def test_equal_uses_of_a_model_are_one_check(ways: dict[str, Way], tmp_path: Path) -> None:
    chain = ways["classes"].tiny.chain("naive")
    source = ways["classes"].source(tmp_path)
    identities = {to_check(stage, source).identity for stage in chain.stages if stage.arm != "zero_shot"}
    assert len(identities) == 1
    assert to_check(ways["lora"].stage, source).identity not in identities
    assert to_check(ways["zero_shot"].stage, source).identity not in identities


def test_a_hub_model_is_checked_once_by_the_first_stage_that_trains_it(
    ways: dict[str, Way], tmp_path: Path, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    way, commit, checked = ways["classes"], "a" * 40, []
    for name, architecture, tokens in (("good", "llama", BOTH), ("bad", "xlnet", XLNET)):
        root = tmp_path / f"models--someone--{name}"
        write_model(root / "snapshots" / commit, architecture, tokens)
    real = model_check.check_model
    monkeypatch.setattr(model_check, "check_model", lambda *args: (checked.append(args), real(*args))[1])

    def run(name: str, seed: int) -> None:
        source = ModelSource(name=f"someone/{name}", revision=commit)
        stage = way.stage.model_copy(
            update={
                "spec": way.stage.spec.model_copy(update={"starts_from": source, "order_seed": seed}),
                "predicts": (),
            }
        )
        run_stage(stage, store=way.tiny.store, workers=alone, observer=Onlooker())

    for seed in (0, 1):
        run("good", seed)
    assert len(checked) == 1
    with pytest.raises(ModelError, match="longer texts beside it"):
        run("bad", 0)
    assert len(checked) == 2


class Drawn(NamedTuple):
    """A model folder, what was done to it, and how it is used."""

    folder: Path
    way: str
    changes: tuple[str, ...]
    pad_token: str | None


def draw(coin: random.Random, folder: Path, *, faults: bool) -> Drawn:
    """Draw architecture × tokenizer × way; with `faults` also what people's folders have wrong."""
    name = coin.choice(list(ARCHITECTURES))
    tokens = coin.choice([own_tokenizer(name), *TOKENIZERS.values()])
    changes = [name]
    if faults and coin.random() < 0.3:
        tokens = replace(tokens, pad=coin.choice(["<new>", "</s>", "<unk>", None]), extra=("<new>",))
        changes.append(f"pad {tokens.pad}")
    head = coin.choice([0, 0, 0, 2, 3]) if name not in ("mamba", "xlnet") else 0
    write_model(folder, name, tokens, seed=coin.randrange(100), head=head)
    for _ in range(coin.choice([0, 0, 1, 2]) if faults else 0):
        with suppress(OSError, ValueError, SafetensorError):  # of a file that is broken already
            changes.append(_break(coin, folder))
    pad_token = coin.choice(["</s>", "e"]) if tokens.pad is None else None
    return Drawn(folder, coin.choice(HEADS + LANGUAGE), (*changes, str(tokens), f"head {head}"), pad_token)


def _break(coin: random.Random, folder: Path) -> str:
    """Change one file of a model folder, and return what was done."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    kind = coin.choice(["key", "key", "drop", "cut", "remove", "garbage", "cast"])
    if kind == "key":
        key = coin.choice(
            ["model_type", "architectures", "vocab_size", "num_hidden_layers", "hidden_size", "problem_type",
             "is_decoder", "pad_token_id", "max_position_embeddings", "auto_map", "id2label", "quantization_config",
             "num_attention_heads", "use_cache", "tie_word_embeddings"]
        )  # fmt: skip
        value = coin.choice([None, 0, 1, 3, 50, "qwen9", "gpt2", {}, {"AutoConfig": "a.B"}, True, "regression"])
        edit(folder, **{key: value})
        return f"{key}: {value!r}"
    if kind == "drop":
        tensors = load_file(weights)
        gone = coin.choice(sorted(tensors))
        save_file({name: t for name, t in tensors.items() if name != gone}, weights, metadata={"format": "pt"})
        return f"without {gone}"
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[: coin.randrange(weights.stat().st_size)])
        return "cut weights"
    if kind == "cast":
        tensors = {name: t.to(torch.float16) if t.is_floating_point() else t for name, t in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
        return "fp16 weights"
    file = coin.choice([config, weights, folder / "tokenizer.json", folder / "tokenizer_config.json"])
    if kind == "remove":
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(b'{"broken": ')
    return f"{kind} {file.name}"


def holds(drawn: Drawn, way: Way, workers: Workers, tmp_path: Path) -> bool:
    """Whether the model passes; then its export predicts what its stage did, whatever the micro-batches."""
    try:
        level = LevelSpec(model=str(drawn.folder), pad_token=drawn.pad_token, optimisation={"context_tokens": CONTEXT})
        resolve_model(level)
        way.check(drawn.folder, pad_token=drawn.pad_token)
    except W2SError as error:
        assert error.message and "Traceback" not in str(error), drawn
        return False
    if drawn.way not in ("classes", "lora", "probe", "pairs", "pairs lora") or drawn.pad_token:
        return True
    model, probs_NC = trained(way, drawn.folder, workers, tmp_path)
    _, others_NC = trained(way, drawn.folder, workers, tmp_path, tokens_per_micro_batch=2 * CONTEXT)
    np.testing.assert_allclose(others_NC, probs_NC, atol=2e-5, err_msg=str(drawn))
    for batch in (1, 8):
        np.testing.assert_allclose(exported(way, model, batch), probs_NC, atol=1e-5, err_msg=str(drawn))
    return True


def _hold(seeds: range, ways: dict[str, Way], alone: Workers, tmp_path: Path, *, faults: bool) -> Iterator[bool]:
    for seed in seeds:
        coin, home = random.Random(seed), tmp_path / str(seed)
        home.mkdir()
        drawn = draw(coin, home / "model", faults=faults)
        yield holds(drawn, ways[drawn.way], alone, home)


def test_a_drawn_model_is_refused_or_its_export_predicts_the_same(
    ways: dict[str, Way], alone: Workers, tmp_path: Path
) -> None:
    passed = list(_hold(range(12), ways, alone, tmp_path, faults=False))
    assert 3 <= sum(passed) < 12


@pytest.mark.soak
def test_five_hundred_model_folders_give_no_traceback_and_no_wrong_export(
    ways: dict[str, Way], alone: Workers, tmp_path: Path
) -> None:
    passed = list(_hold(range(1000, 1500), ways, alone, tmp_path, faults=True))
    print(f"{sum(passed)} of {len(passed)} model folders passed", file=sys.stderr)
    assert 100 <= sum(passed) <= 400
