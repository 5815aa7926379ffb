"""The trial of a model: some of the task's texts go through a stage's model, untrained, before anything is trained.

An exported model has to predict what its stage predicted. No list of architectures can promise that, so it is tried:
the network that the stage would train is saved as the stage would save it, and loaded again by transformers alone. Then

    tokens      the exported tokenizer gives the tokens that the stage reads, for each text
    export      the exported model gives the stage's logits, for each text alone and for all of them padded together
    padding     the stage's network gives a text the same logits alone and beside longer ones
    training    the network gives the same logits in training, without dropout, as in evaluation
    causality   a language model's logits do not change when a later token does
    positions   a text of all `context_tokens` can be read
    vocabulary  the model has an embedding for every token that the tokenizer can give

Logits are equal if they differ by at most 1e-4 of their range over the texts, or of 1 if that is larger.

A large model is tried with its first layers.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from w2s_ray.data.tokens import Tokens
from w2s_ray.errors import ModelError
from w2s_ray.science import IntArray
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import Execution, ModelSource, Score
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.feed import Examples, Feeder, TokenRow
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.language_objectives import left_padded
from w2s_ray.training.memory.usage import is_out_of_memory
from w2s_ray.training.models import files
from w2s_ray.training.models.loading import load_network
from w2s_ray.training.models.network import Network, evaluating
from w2s_ray.training.models.saving import ExportFolder, exported_tokenizer
from w2s_ray.training.objectives import ClassObjective
from w2s_ray.training.workers import Workers

TOLERANCE = 1e-4
_NOISE = 2e-6
"""Error of fp32, as a share of the largest logit."""
_NUM_TEXTS = 5
_MOST_CHARACTERS = 20_000
WHOLE_PARAMETERS = 300_000_000
"""Larger models are tried with their first layers."""
_FEW_LAYERS = 2
_CHANGE_STD = 0.02
"""Standard deviation of the values that LoRA's second matrices get, which are zero before training."""
PAGE = "docs/models.md lists what is read"


class Trial:
    """One check: the texts, the stage's network, and the exported model."""

    def __init__(self, stage: PlannedStage, store: ArtifactStore, folder: Path) -> None:
        self.spec, self.folder = stage.spec, folder
        self.context = stage.spec.optimisation.context_tokens
        self.name = stage.spec.starts_from.name
        self.inputs = StageInputs(stage, store, Workers(0, 1, torch.device("cpu")))
        self.difference = 0.0

    def run(self) -> float:
        """Do every part of the check; return the largest difference."""
        spec, inputs = self.spec, self.inputs
        tokenizer = inputs.tokenizer
        if spec.is_language_model and tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {self.name} has no end-of-text token, which {spec.objective} needs",
                "choose a language model whose tokenizer has `eos_token`",
            )
        self.texts = self._sample()
        network = self._load()
        self._check_vocabulary(network.hf, tokenizer)
        _change_adapters(network)
        self.plain, self.plain_tokenizer = self._export(network, tokenizer)
        first = self._check_positions()
        with evaluating(network), evaluating(self.plain):
            self._check_tokens()
            self._check_language(network) if spec.is_language_model else self._check_head(network)
            self._compare("the logits of a text change with the texts read before it", self._check_positions(), first)
        return self.difference

    def _load(self) -> Network:
        """Load the network that the stage would train; a large one without most of its layers."""
        spec, folder, tokenizer = self.spec, self.inputs.source_folder, self.inputs.tokenizer
        is_read = isinstance(spec.starts_from, ModelSource) and spec.starts_from.architecture is None
        if is_read and files.num_parameters(files.weight_files(folder)) > WHOLE_PARAMETERS:
            return load_network(spec, folder, tokenizer, Execution(), num_layers=_FEW_LAYERS).eval()
        return load_network(spec, folder, tokenizer, Execution()).eval()

    def _sample(self) -> list[str]:
        """Return some of the task's texts, short and long, and give the inputs their tokens alone."""
        inputs, prepared = self.inputs, self.inputs.prepared
        lengths_N = pc.binary_length(prepared.table()["text"]).to_numpy()
        places = np.linspace(0, len(lengths_N) - 1, min(_NUM_TEXTS, len(lengths_N))).round().astype(int)
        self.rows_N: IntArray = np.argsort(lengths_N, kind="stable")[places]
        texts = prepared.texts(self.rows_N)
        if prepared.kind == "text":
            texts = [text[-_MOST_CHARACTERS:] for text in texts]  # of documents, which may be books
        if prepared.texts_per_example == 2:
            texts += prepared.others(self.rows_N)
        encoded = inputs.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        numbers = prepared.text_numbers(self.rows_N)
        lengths = np.zeros(prepared.table().num_rows * prepared.texts_per_example + 1, dtype=np.int64)
        lengths[numbers + 1] = [len(ids) for ids in encoded]
        order = np.argsort(numbers)
        ids = [token for place in order for token in encoded[place]]
        before, after = inputs.special_tokens
        # In place of the tokens of the whole task.
        inputs.tokens = Tokens(np.array(ids, dtype=np.int32), lengths.cumsum(), before, after)
        return texts

    @property
    def rows(self) -> list[TokenRow]:
        """The tokens of the texts, as a stage reads them that adds nothing to them."""
        return self.inputs.tokens.rows(self.inputs.prepared.text_numbers(self.rows_N), self.context)

    @property
    def full_row(self) -> TokenRow:
        """A text of as many tokens as the context has room for."""
        tokens = self.inputs.tokens
        room = max(self.context - len(tokens.before) - len(tokens.after), 1)
        inner = np.resize(tokens.token_ids if len(tokens.token_ids) else self.rows[0], room)
        return np.concatenate([tokens.before, inner, tokens.after]).astype(np.int32)[: self.context]

    def _check_vocabulary(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        """Refuse tokens beyond the embeddings; special ones that no row has, such as a mask, do not matter."""
        rows = hf.get_input_embeddings().weight.shape[0]
        special = set(tokenizer.all_special_ids)
        vocabulary = tokenizer.get_vocab()
        used = {
            tokenizer.pad_token_id,
            *self.inputs.special_tokens[0].tolist(),
            *self.inputs.special_tokens[1].tolist(),
        }
        if self.spec.is_language_model:
            used.add(tokenizer.eos_token_id)
        beyond = sorted((id_, token) for token, id_ in vocabulary.items() if id_ >= rows and id_ in used - {None})
        beyond += sorted((id_, token) for token, id_ in vocabulary.items() if id_ >= rows and id_ not in special)
        if beyond:
            number, token = beyond[0]
            is_padding = number == tokenizer.pad_token_id
            other = next((t for t in (tokenizer.eos_token, tokenizer.unk_token) if t and vocabulary[t] < rows), None)
            raise ModelError(
                f"{self.name} has embeddings for {rows} tokens, and {token!r} of its tokenizer is number {number}",
                (f"set `pad_token: {other!r}` on the level, or " if is_padding and other else "")
                + "resize the model (`model.resize_token_embeddings(len(tokenizer))`) and save it again",
            )
        pad = tokenizer.pad_token
        if not self.spec.is_language_model and hasattr(hf, "score"):
            ids = tokenizer(f"a {pad}", add_special_tokens=False, split_special_tokens=True)["input_ids"]
            if tokenizer.pad_token_id in ids:
                raise ModelError(
                    f"the padding token {pad!r} of {self.name} is part of ordinary texts, and an exported classifier "
                    "takes it for padding at the end of a text",
                    "set `pad_token:` of the level to a special token, such as the end of text",
                )

    def _check_positions(self) -> torch.Tensor:
        """Refuse a context that is longer than what the model can read; return the logits of a full text."""
        row, failures = self.full_row, list[Exception]()
        network = Network(self.plain, "fp32").eval()

        def read(num: int) -> torch.Tensor | None:
            try:
                logits: torch.Tensor = network(*_batch([row[:num]], 0))
            except (IndexError, RuntimeError, ValueError) as error:
                if is_out_of_memory(error):
                    raise
                failures.append(error)
                return None
            return logits

        whole = read(len(row))
        if whole is not None:
            return whole
        low, high = 0, len(row)  # it reads low tokens, and not high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if read(middle) is None else (middle, high)
        if low <= len(self.inputs.tokens.before) + len(self.inputs.tokens.after):
            raise failures[0]
        raise ModelError(
            f"context_tokens is {self.context}, and {self.name} can read {low} tokens",
            f"lower context_tokens of the level, or of its generative stage, to {low}, or choose another model",
        )

    def _export(
        self, network: Network, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """Save the network as a stage does, and load it as a user of the export would."""
        exported = exported_tokenizer(tokenizer, *self.inputs.special_tokens, self.spec)
        ExportFolder(self.folder, exported, self.context).save_alone(network)
        auto = AutoModelForCausalLM if self.spec.is_language_model else AutoModelForSequenceClassification
        trust = {"trust_remote_code": self.spec.trusts_code}
        plain, info = auto.from_pretrained(self.folder, dtype=torch.float32, output_loading_info=True, **trust)
        if info["missing_keys"] or info["mismatched_keys"]:
            raise ModelError(
                f"{self.name} cannot be loaded again after it was saved: {sorted(info['missing_keys'])[:3]}", PAGE
            )
        return plain.eval(), AutoTokenizer.from_pretrained(self.folder, **trust)

    def _check_tokens(self) -> None:
        """Compare the tokens that the stage reads with those of the exported tokenizer."""
        if self.spec.objective == "next_token":
            return  # its blocks are cut out of joined texts
        for text, row in zip(self.texts, self.rows, strict=True):
            ids = self.plain_tokenizer(text, truncation=True)["input_ids"]
            if ids != row.tolist():
                names = self.inputs.tokenizer.convert_ids_to_tokens
                raise ModelError(
                    f"the exported tokenizer of {self.name} gives {_shown(names(ids))} where the stage reads "
                    f"{_shown(names(row.tolist()))}",
                    f"save the tokenizer with `save_pretrained`, or choose another model; {PAGE}",
                )

    def _check_head(self, network: Network) -> None:
        """Compare the logits of classes, or the score of each text of a pair."""
        single = Network(network.hf, "fp32").eval()
        texts, rows, pad = self.texts, self.rows, self.inputs.tokenizer.pad_token_id
        alone_RC = torch.cat([self._plain([text]) for text in texts])
        self.scale = _scale(alone_RC)
        stage_RC = torch.cat([single(*_batch([row], pad)) for row in rows])
        self._compare("alone, the exported model gives other logits than the stage", stage_RC, alone_RC)
        beside_RC = single(*_batch([*rows, self.full_row], pad))[: len(rows)]
        self._compare("the logits of a text change with the longer texts beside it", beside_RC, stage_RC)
        self._check_training_mode(single, rows)
        self._compare("in a padded batch, the exported model gives other logits", self._plain(texts), alone_RC)
        if self.spec.objective == "classification":
            self._check_pipeline(alone_RC)

    def _check_training_mode(self, network: Network, rows: Sequence[TokenRow]) -> None:
        """Compare the logits of training, without dropout, with those of evaluation."""
        batch = _batch([*rows, self.full_row], self.inputs.tokenizer.pad_token_id)
        expected = network(*batch)
        actual = network.train()(*batch)
        network.eval()
        self._compare("in training, the model computes other logits from the same texts", actual, expected)

    def _check_pipeline(self, logits_RC: torch.Tensor) -> None:
        read = pipeline("text-classification", model=self.plain, tokenizer=self.plain_tokenizer, device="cpu")
        answers = read(self.texts, top_k=None, truncation=True)
        names = [self.plain.config.id2label[number] for number in range(logits_RC.shape[1])]
        probs = [[{each["label"]: each["score"] for each in answer}[name] for name in names] for answer in answers]
        self._compare("`pipeline()` gives other probabilities", torch.tensor(probs), logits_RC.softmax(dim=-1), 1.0)

    def _plain(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the exported model's logits of texts, by nothing but transformers."""
        encoded = self.plain_tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        logits: torch.Tensor = self.plain(**encoded).logits
        return logits.float()

    def _check_language(self, network: Network) -> None:
        """Compare the logits of next tokens, and what the objective makes of them."""
        rows, pad = [row for row in self.rows if len(row)], self.inputs.tokenizer.pad_token_id
        alone = [self._plain_tokens(row) for row in rows]
        self.scale = _scale(torch.cat(alone))
        for row, logits_TV in zip(rows, alone, strict=True):
            kept = max(2 * len(row) // 3, 1)
            changed = np.concatenate([row[:kept], np.flip(row[kept:]), row[:1]])
            self._compare(
                "it is no language model: later tokens change the logits of earlier ones",
                self._plain_tokens(changed)[:kept],
                logits_TV[:kept],
            )
        if self.spec.completion_score is not None:
            self._check_scores(network, self.spec.completion_score)
            return
        batch = _batch([*rows, self.full_row], pad)
        logits_RTV = network(*batch)
        for number, logits_TV in enumerate(alone):
            self._compare(
                "the logits of a text change with the longer texts beside it",
                logits_RTV[number, : len(logits_TV)],
                logits_TV,
            )
        self._check_training_mode(network, rows)
        if self.spec.objective == "answer":
            self._check_generation(network, rows, torch.stack([logits_TV[-1] for logits_TV in alone]))

    def _plain_tokens(self, row: TokenRow) -> torch.Tensor:
        """Return the exported model's logits_TV of one row."""
        logits: torch.Tensor = self.plain(input_ids=torch.from_numpy(row[None].astype(np.int64))).logits[0]
        return logits.float()

    def _check_scores(self, network: Network, score: Score) -> None:
        """Compare the stage's scores of completions with the sums of the exported model's log-probabilities."""
        objective = ClassObjective(self.inputs)
        examples = objective._texts(self.rows_N, self.context, ())
        feeder = self._feeder(examples)
        assert examples.first is not None
        sums = []
        for row, first in zip(examples.tokens, examples.first.tolist(), strict=True):
            logs_TV = self._plain_tokens(row).log_softmax(dim=-1)
            logs = [float(logs_TV[place - 1, row[place]]) for place in range(first, len(row))]
            sums.append(sum(logs) / (len(logs) if score.normalise else 1))
        scores_XN = torch.tensor(sums).view(examples.texts_per_example, -1)
        if score.calibrate:
            scores_XN = scores_XN[: self.spec.num_classes] - scores_XN[self.spec.num_classes :]
        expected_NC = score.beta * scores_XN.T
        (batch,) = feeder.micro_batches(np.arange(len(examples)))
        actual_BC = network(*batch.inputs)
        scores = "the exported model scores completions otherwise"
        self._compare(scores, actual_BC, expected_NC[batch.positions], 1.0)  # sums of logits compared already

    def _check_generation(self, network: Network, rows: Sequence[TokenRow], last_RV: torch.Tensor) -> None:
        """Compare the logits of the first token that the stage, and the exported model, would write."""
        pad = self.inputs.tokenizer.pad_token_id
        (batch,) = self._feeder(Examples(tokens=list(rows))).micro_batches(np.arange(len(rows)))
        tokens_RT, mask_RT = left_padded(batch, pad)
        config = GenerationConfig(
            max_new_tokens=1, do_sample=False, pad_token_id=pad, output_logits=True, return_dict_in_generate=True
        )
        for message, hf in (
            ("padding before a text changes what is written after it", network.hf),
            ("the exported model writes otherwise", self.plain),
        ):
            written = hf.generate(tokens_RT, attention_mask=mask_RT, generation_config=config)
            self._compare(message, written.logits[0].float(), last_RV[batch.positions])

    def _feeder(self, examples: Examples) -> Feeder[Examples]:
        return Feeder(examples, self.inputs.workers, sys.maxsize, self.inputs.tokenizer.pad_token_id)

    def _compare(self, message: str, actual: torch.Tensor, expected: torch.Tensor, scale: float | None = None) -> None:
        """Refuse the model if the two differ by more than is allowed; `scale` is that of the logits if not given."""
        scale = min(self.scale if scale is None else scale, 1.0)
        if actual.shape != expected.shape:
            raise ModelError(
                f"{self.name}: {message}: {tuple(actual.shape)} of them where {tuple(expected.shape)} are expected",
                f"choose another model; {PAGE}",
            )
        if not (torch.isfinite(actual).all() and torch.isfinite(expected).all()):
            raise ModelError(f"{self.name} gives logits that are not finite", "check its weights")
        gap = float((actual - expected).abs().max()) if actual.numel() else 0.0
        allowed = TOLERANCE * scale + _NOISE * float(expected.abs().max() if expected.numel() else 1.0)
        self.difference = max(self.difference, gap / allowed)
        if gap > allowed:
            raise ModelError(
                f"{self.name} cannot be used for {self.spec.objective}: {message} (they differ by {gap:.2g}, and "
                f"{allowed:.2g} is allowed)",
                f"choose another model; {PAGE}",
            )


def _batch(rows: Sequence[TokenRow], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens_RT padded on the right, and the index of each row's last token."""
    tokens_RT = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.int64)
    for number, row in enumerate(rows):
        tokens_RT[number, : len(row)] = torch.from_numpy(row.astype(np.int64))
    return tokens_RT, torch.tensor([len(row) - 1 for row in rows])


def _scale(logits: torch.Tensor) -> float:
    """Return the range of the logits over the first axis, at its widest; random heads give all texts similar ones."""
    return float((logits.max(dim=0).values - logits.min(dim=0).values).max())


def _shown(tokens: Sequence[str], most: int = 4) -> str:
    names = list(tokens) if len(tokens) <= 2 * most else [*tokens[:most], "…", *tokens[-most:]]
    return " ".join(names)


def _change_adapters(network: Network) -> None:
    """Give LoRA adapters values, so that merging them matters."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.hf.named_parameters():
        if ".lora_B." in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * _CHANGE_STD)
