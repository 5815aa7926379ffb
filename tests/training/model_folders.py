"""Model folders as people have them: small random models of many architectures, with tokenizers of many shapes."""

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from tests.training.conftest import Tiny
from w2s_ray.data.splits import rows_of_split
from w2s_ray.spec.chain import PlannedStage

WORDS = 97
"""Ordinary tokens: characters, so that every text has tokens."""
POSITIONS = 80
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SHORT = {**SIZES, "max_position_embeddings": POSITIONS}
GROUPED = {**SHORT, "num_key_value_heads": 1}


@dataclass(frozen=True)
class Tokens:
    """The shape of a tokenizer."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    pad: str | None = "<pad>"
    cls: str | None = None
    segment: int = 0
    """The segment of its last special token."""
    extra: tuple[str, ...] = ()
    """Tokens that are added at the end."""
    names: tuple[str, ...] = ("input_ids", "attention_mask")


PLAIN = Tokens()
BERT = Tokens(("[CLS]",), ("[SEP]",), "[PAD]", "[CLS]", names=("input_ids", "token_type_ids", "attention_mask"))
ROBERTA = Tokens(("<s>",), ("</s>",), "<pad>", "<s>")
BEGIN = Tokens(("<s>",))
BOTH = Tokens(("<s>",), ("</s>",))
XLNET = Tokens((), ("<sep>", "<cls>"), "<pad>", "<cls>", segment=2, names=BERT.names)
TOKENIZERS = {"plain": PLAIN, "bert": BERT, "roberta": ROBERTA, "begin": BEGIN, "both": BOTH, "xlnet": XLNET}

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "[PAD]", "[CLS]", "[SEP]", "<sep>", "<cls>", "[MASK]")


def write_tokenizer(folder: Path, shape: Tokens) -> tf.PreTrainedTokenizerFast:
    """A tokenizer of characters; special tokens come first, so its ids do not depend on the shape."""
    characters = [*string.printable[:95], "\n", "é"]
    assert len(characters) == WORDS
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *characters])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [*shape.before, "$A", *shape.after]
    if shape.segment:
        around[-1] = f"{around[-1]}:{shape.segment}"
    if len(around) > 1:
        made.post_processor = TemplateProcessing(
            single=around,
            pair=[*around, "$B:1"],
            special_tokens=[(token, vocabulary[token]) for token in {*shape.before, *shape.after}],
        )
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    named |= {"pad_token": shape.pad} if shape.pad else {}
    named |= {"cls_token": shape.cls, "sep_token": shape.after[0]} if shape.cls else {}
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=list(shape.names), **named)
    if shape.extra:
        tokenizer.add_special_tokens({"extra_special_tokens": list(shape.extra)})
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": list(shape.names)}))
    return tokenizer


VOCABULARY = len(SPECIAL) + WORDS
DECODERS: dict[str, Callable[[], tf.PretrainedConfig]] = {
    "llama": lambda: tf.LlamaConfig(**GROUPED),
    "gpt2": lambda: tf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**SHORT),
    "gpt_neo": lambda: tf.GPTNeoConfig(
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        max_position_embeddings=POSITIONS,
    ),
    "opt": lambda: tf.OPTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=24,
        max_position_embeddings=POSITIONS,
        word_embed_proj_dim=16,
    ),
    "mistral": lambda: tf.MistralConfig(**GROUPED, sliding_window=8),
    "qwen2": lambda: tf.Qwen2Config(**GROUPED),
    "qwen3": lambda: tf.Qwen3Config(**GROUPED, head_dim=8),
    "gemma": lambda: tf.GemmaConfig(**GROUPED, head_dim=8),
    "gemma2": lambda: tf.Gemma2Config(**GROUPED, head_dim=8, sliding_window=8),
    "gemma3_text": lambda: tf.Gemma3TextConfig(
        **GROUPED, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi": lambda: tf.PhiConfig(**SHORT),
    "olmo": lambda: tf.OlmoConfig(**GROUPED),
    "olmo2": lambda: tf.Olmo2Config(**GROUPED),
    "bloom": lambda: tf.BloomConfig(hidden_size=16, n_layer=2, n_head=2),
    "mixtral": lambda: tf.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
}
ENCODERS: dict[str, Callable[[], tf.PretrainedConfig]] = {
    "bert": lambda: tf.BertConfig(**SHORT),
    "roberta": lambda: tf.RobertaConfig(**SHORT, pad_token_id=0),
    "electra": lambda: tf.ElectraConfig(**SHORT, embedding_size=16),
    "distilbert": lambda: tf.DistilBertConfig(
        dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=POSITIONS
    ),
    "deberta_v2": lambda: tf.DebertaV2Config(**SHORT, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "albert": lambda: tf.AlbertConfig(**SHORT, embedding_size=8),
    "modernbert": lambda: tf.ModernBertConfig(**SHORT, global_attn_every_n_layers=2, local_attention=8),
    "mpnet": lambda: tf.MPNetConfig(**SHORT, pad_token_id=0),
}
OTHERS: dict[str, Callable[[], tf.PretrainedConfig]] = {
    "xlnet": lambda: tf.XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=24),
    "t5": lambda: tf.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0),
    "bart": lambda: tf.BartConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=POSITIONS,
    ),
    "mamba": lambda: tf.MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4),
    "ctrl": lambda: tf.CTRLConfig(n_embd=16, n_layer=2, n_head=2, dff=24, n_positions=POSITIONS),
    "openai-gpt": lambda: tf.OpenAIGPTConfig(n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS),
    "big_bird": lambda: tf.BigBirdConfig(**SHORT, block_size=4, num_random_blocks=1),
    "gptj": lambda: tf.GPTJConfig(n_embd=16, n_layer=2, n_head=2, rotary_dim=4, n_positions=POSITIONS),
    "falcon": lambda: tf.FalconConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
}
ARCHITECTURES = {**DECODERS, **ENCODERS, **OTHERS}
RARE: dict[str, Callable[[], tf.PretrainedConfig]] = {
    "esm": lambda: tf.EsmConfig(**SHORT, pad_token_id=0, mask_token_id=9),
    "reformer": lambda: tf.ReformerConfig(
        hidden_size=16,
        num_attention_heads=2,
        attention_head_size=8,
        feed_forward_size=24,
        axial_pos_embds=False,
        max_position_embeddings=POSITIONS,
        attn_layers=["local", "local"],
        local_attn_chunk_length=8,
        is_decoder=True,
    ),
}
"""Architectures that are not in the table of docs/models.md."""


def write_model(
    folder: Path, architecture: str, tokens: Tokens = PLAIN, *, seed: int = 0, head: int = 0, **changes: object
) -> Path:
    """A model folder: random weights, a language model's where there is one, or a classifier's with `head` classes."""
    tokenizer = write_tokenizer(folder, tokens)
    config = (ARCHITECTURES | RARE)[architecture]()
    config.vocab_size = VOCABULARY
    pad = tokenizer.pad_token_id
    config.pad_token_id = pad if pad is not None and pad < VOCABULARY else None
    config.bos_token_id, config.eos_token_id = 1, 2
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    autos: Sequence[type] = (tf.AutoModelForCausalLM, tf.AutoModelForMaskedLM, tf.AutoModel)
    if config.is_encoder_decoder:
        autos = (tf.AutoModel,)
    if head:
        config.num_labels = head
        autos = (tf.AutoModelForSequenceClassification,)
    for auto in autos:
        if type(config) in auto._model_mapping:
            if auto is tf.AutoModelForCausalLM and architecture in ENCODERS:
                continue
            model = auto.from_config(config)
            break
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)  # so that a difference anywhere reaches the logits
    model.save_pretrained(folder)
    return folder


def own_tokenizer(architecture: str) -> Tokens:
    """The shape of the tokenizers that models of an architecture usually have."""
    if architecture in ("roberta", "bart", "mpnet"):
        return ROBERTA
    if architecture in (*ENCODERS, "big_bird"):
        return BERT
    return {"xlnet": XLNET, "t5": BOTH}.get(architecture, BEGIN)


CODE = """
from transformers import BertConfig, BertForSequenceClassification


class OwnConfig(BertConfig):
    model_type = "own"


class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""


def write_code(folder: Path, tokens: Tokens) -> Path:
    """A model folder with a class of its own."""
    write_model(folder, "bert", tokens)
    (folder / "modeling_own.py").write_text(CODE)
    path = folder / "config.json"
    names = ("AutoModelForSequenceClassification", "OwnForSequenceClassification")
    maps = {"AutoConfig": "modeling_own.OwnConfig", names[0]: f"modeling_own.{names[1]}"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "own", "auto_map": maps}))
    return folder


def exported(way: tuple[Tiny, PlannedStage], folder: Path, batch: int) -> np.ndarray:
    """The test predictions of a stage's exported classifier by transformers alone, in padded batches."""
    tiny, stage = way
    assert stage.test_prediction is not None
    rows_N = rows_of_split(tiny.prepared, stage.test_prediction.split)
    model, tokenizer = (
        auto.from_pretrained(folder) for auto in (tf.AutoModelForSequenceClassification, tf.AutoTokenizer)
    )
    model.eval()

    def logits(texts: list[str]) -> torch.Tensor:
        parts = [texts[start : start + batch] for start in range(0, len(texts), batch)]
        with torch.no_grad():
            encoded = (tokenizer(part, padding=True, truncation=True, return_tensors="pt") for part in parts)
            return torch.cat([model(**each).logits for each in encoded])

    first = logits(tiny.prepared.texts(rows_N))
    if tiny.prepared.texts_per_example == 2:
        first = torch.cat([first, logits(tiny.prepared.others(rows_N))], dim=1)
    return np.asarray(first.softmax(dim=-1))


def table(found: dict[str, dict[str, bool]]) -> str:
    """The table of docs/models.md: by architecture, for which uses the check passes."""
    lines = [
        "| architecture | classes, LoRA | pairs | likelihood, zero-shot | answers |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, ways in found.items():
        cells = ["yes" if ways[way] else "–" for way in ("lora", "pairs", "score", "answers")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
