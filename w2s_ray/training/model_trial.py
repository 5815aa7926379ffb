"""The trial of a model: some of the task's texts go through a stage's model, untrained, before anything is trained.

An exported model has to predict what its stage predicted. No list of architectures can promise that, so it is tried:
the network that the stage would train is saved as the stage would save it, and loaded again by transformers alone. Then

    tokens      the exported tokenizer gives the tokens that the stage reads, for each text
    export      the exported model gives the stage's logits, for each text alone and for all of them padded together
    padding     the stage's network gives a text the same logits alone and beside longer ones
    training    the network gives the same logits in training, without dropout, as in evaluation
    causality   a language model's logits do not change when a later token does
    positions   a text of all `context_tokens` can be read
    routers     the routers of experts that are trained have gradients
    vocabulary  the model has an embedding for every token that the tokenizer can give

Logits are equal if they differ by at most 1e-4 of their range over the texts, or of 1 if that is larger.

Long contexts and large models are tried with less: the logits of next tokens are computed at some places of a text,
all comparisons but those of a full text are of short texts, and a large model is tried with its first layers. So the
check needs little more memory than the weights of the stage's network and of its export.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from w2s_ray.errors import ModelError, ResourceError, StoreError
from w2s_ray.science import IntArray
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import ModelSource, Score
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.feed import Examples, MicroBatch, TokenRow
from w2s_ray.training.inputs import SampledInputs
from w2s_ray.training.language_objectives import left_padded
from w2s_ray.training.memory.usage import is_out_of_memory
from w2s_ray.training.models import files
from w2s_ray.training.models.loading import load_network
from w2s_ray.training.models.network import Network, logits_at
from w2s_ray.training.models.saving import ExportFolder, exported_tokenizer
from w2s_ray.training.models.vocabulary import check_vocabulary
from w2s_ray.training.objectives import ClassObjective
from w2s_ray.training.workers import Workers

TOLERANCE = 1e-4
_NOISE = 2e-6
"""Error of fp32, as a share of the largest logit."""
WHOLE = 10**11
"""Parameters times context tokens above which a model is tried with its first layers."""
_FEW_LAYERS = 2
_SHORT_TOKENS = 256
"""Longer texts are compared by their last tokens."""
_BATCH_TOKENS = 4_096
"""Tokens of a padded batch, unless a full text and another one have more."""
_PLACES = 8
"""Places of a text at which the logits of the next token are compared."""
_CHANGE_STD = 0.02
"""Standard deviation of the values that LoRA's second matrices get, which are zero before training."""
_ROUTER = re.compile(r"\.(gate|router)\.(layer\.)?weight$")
"""Names of the weights that choose experts."""
PAGE = "docs/models.md lists what is read"
_BESIDE = "the logits of a text change with the longer texts beside it"
_TRAINING = "in training, the model computes other logits from the same texts"


class Trial:
    """One check: the texts, the stage's network, and the exported model."""

    def __init__(self, stage: PlannedStage, store: ArtifactStore, folder: Path) -> None:
        self.spec, self.folder = stage.spec, folder
        self.name = stage.spec.starts_from.name
        self.inputs = inputs = SampledInputs(stage, store, Workers.alone())
        inputs.execution = Execution()
        if self.spec.is_language_model and inputs.tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {self.name} has no end-of-text token, which {self.spec.objective} needs",
                "choose a language model whose tokenizer has `eos_token`",
            )
        self.context = stage.spec.optimisation.context_tokens
        self.short = min(self.context, _SHORT_TOKENS)
        self.full_row = inputs.full_row(self.context)
        pairs = [pair for pair in zip(inputs.sample, inputs.rows(self.short), strict=True) if len(pair[1])]
        self.texts, self.rows = [text for text, _ in pairs], [row for _, row in pairs]
        is_known = self._has_weights and not self.spec.trusts_code
        shape = files.shape_of(inputs.source_folder) if is_known else None
        if shape is not None:  # most classes cannot be made with a padding token that has no embedding
            self._check_vocabulary(shape.vocabulary)
        self.network = self._load()
        self._check_vocabulary(self.network.hf.get_input_embeddings().weight.shape[0])
        self._check_padding()
        self._check_finite()
        _change_adapters(self.network)
        self.plain, self.plain_tokenizer = self._export()
        self.scale, self.difference = 1.0, 0.0

    def run(self) -> float:
        """Do every part of the check; return the largest difference."""
        first = self._check_positions()
        self._check_tokens()
        self._check_language() if self.spec.is_language_model else self._check_head()
        self._check_routers()
        self._compare("the logits of a text change with the texts read before it", self._read_full(self.context), first)
        return self.difference

    @property
    def _has_weights(self) -> bool:
        """Whether the stage starts from a model's files, and not from random weights."""
        source = self.spec.starts_from
        return isinstance(source, ModelSource) and source.architecture is None

    def _load(self) -> Network:
        """Load the network that the stage would train; a large one without most of its layers."""
        spec, folder, tokenizer = self.spec, self.inputs.source_folder, self.inputs.tokenizer
        is_large = self._has_weights and files.num_parameters(files.weight_files(folder)) * self.context > WHOLE
        return load_network(spec, folder, tokenizer, Execution(), _FEW_LAYERS if is_large else None).eval()

    def _check_finite(self) -> None:
        for name, weight in self.network.hf.named_parameters():
            if not weight.sum(dtype=torch.float64).isfinite():
                raise ModelError(f"{self.name} has weights that are not finite: {name}", "download or save it again")

    def _check_vocabulary(self, rows: int) -> None:
        """Refuse tokens beyond the embeddings; special ones that no row has, such as a mask, do not matter."""
        tokenizer = self.inputs.tokenizer
        before, after = self.inputs.special_tokens
        around = tokenizer.convert_ids_to_tokens([*before.tolist(), *after.tolist()])
        if self.spec.is_language_model:
            around.append(tokenizer.eos_token)
        check_vocabulary(
            self.name,
            tokenizer.backend_tokenizer,
            rows,
            tokenizer.pad_token,
            around,
            tokenizer.eos_token,
            named=tokenizer.all_special_tokens,
        )

    def _check_padding(self) -> None:
        """Refuse a classifier's padding token that may be the last token of a text."""
        hf, tokenizer = self.network.hf, self.inputs.tokenizer
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
        failures = list[Exception]()

        def read(num: int) -> torch.Tensor | None:
            try:
                return self._read_full(num)
            except (IndexError, RuntimeError, ValueError) as error:
                if is_out_of_memory(error):
                    raise
                failures.append(error)
                return None

        whole = read(len(self.full_row))
        if whole is not None:
            return whole
        low, high = 0, len(self.full_row)  # it reads low tokens, and not high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if read(middle) is None else (middle, high)
        if low <= len(self.inputs.tokens.before) + len(self.inputs.tokens.after):
            raise failures[0]
        raise ModelError(
            f"context_tokens is {self.context}, and {self.name} can read {low} tokens",
            f"lower context_tokens of the level, or of its generative stage, to {low}, or choose another model",
        )

    def _read_full(self, num: int) -> torch.Tensor:
        """Return the exported model's logits at the last of the first `num` tokens of a full text."""
        if self.spec.is_language_model:
            return self._plain_tokens(self.full_row[:num], np.array([num - 1]))
        logits: torch.Tensor = Network(self.plain, "fp32").eval()(*self._batch([self.full_row[:num]]).inputs)
        return logits

    def _export(self) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """Save the network as a stage does, and load it as a user of the export would."""
        exported = exported_tokenizer(self.inputs.tokenizer, *self.inputs.special_tokens, self.spec)
        try:
            ExportFolder(self.folder, exported, self.context).save_alone(self.network)
        except StoreError as error:  # the folder is not the store's
            raise ResourceError(error.message, "set TMPDIR to a folder with more space") from error
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
        for text, row in zip(self.inputs.sample, self.inputs.rows(self.context), strict=True):
            ids = self.plain_tokenizer(text, truncation=True)["input_ids"]
            if ids != row.tolist():
                names = self.inputs.tokenizer.convert_ids_to_tokens
                raise ModelError(
                    f"the exported tokenizer of {self.name} gives {_shown(names(ids))} where the stage reads "
                    f"{_shown(names(row.tolist()))}",
                    f"save the tokenizer with `save_pretrained`, or choose another model; {PAGE}",
                )

    def _check_head(self) -> None:
        """Compare the logits of classes, or the score of each text of a pair."""
        single = Network(self.network.hf, "fp32").eval()
        alone_RC = torch.cat([self._plain([text]) for text in self.texts])
        self.scale = _scale(alone_RC)
        stage_RC = torch.cat([single(*self._batch([row]).inputs) for row in self.rows])
        self._compare("alone, the exported model gives other logits than the stage", stage_RC, alone_RC)
        beside_RC = single(*self._batch(self._beside).inputs)[:-1]
        self._compare(_BESIDE, beside_RC, stage_RC[: len(beside_RC)])
        self._compare(_TRAINING, torch.cat([single.train()(*self._batch([row]).inputs) for row in self.rows]), stage_RC)
        single.eval()
        self._compare("in a padded batch, the exported model gives other logits", self._plain(self.texts), alone_RC)
        if self.spec.objective == "classification":
            self._check_pipeline(alone_RC)

    @property
    def _beside(self) -> list[TokenRow]:
        """A full text, and shorter ones before it."""
        return [*self.rows[: max(_BATCH_TOKENS // len(self.full_row) - 1, 1)], self.full_row]

    def _check_routers(self) -> None:
        """Refuse routers whose gradients are zero but for rounding, which Adam makes as large as any others.

        That is so where a token has one expert, whose weight is normalised to 1.
        """
        hf, row = self.network.hf, self.rows[-1]
        names = {name: weight for name, weight in hf.named_parameters() if _ROUTER.search(name)}
        routers = [weight for weight in names.values() if weight.requires_grad and weight.dim() == 2]
        if not routers or self.spec.trainable.kind == "prompt":
            return
        with torch.enable_grad():
            hidden_TD = hf.base_model(input_ids=torch.from_numpy(row[None].astype(np.int64)))[0][0]
            ways = torch.randn(hidden_TD.shape, generator=torch.Generator().manual_seed(0))
            gradients = torch.autograd.grad((hidden_TD * ways).mean(), routers, allow_unused=True)
        smallest = min(float(gradient.abs().max()) for gradient in gradients if gradient is not None)
        if smallest < _NOISE * float(hidden_TD.abs().max()):
            raise ModelError(
                f"the routers of {self.name} have no gradients: each token has one expert, whose weight is always 1",
                "train a probe or LoRA adapters, which leave the routers as they are, or choose another model",
            )

    def _check_pipeline(self, logits_RC: torch.Tensor) -> None:
        read = pipeline("text-classification", model=self.plain, tokenizer=self.plain_tokenizer, device="cpu")
        answers = read(self.texts, top_k=None, truncation=True, max_length=self.short)
        names = [self.plain.config.id2label[number] for number in range(logits_RC.shape[1])]
        probs = [[{each["label"]: each["score"] for each in answer}[name] for name in names] for answer in answers]
        self._compare("`pipeline()` gives other probabilities", torch.tensor(probs), logits_RC.softmax(dim=-1), 1.0)

    def _plain(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the exported model's logits of texts, by nothing but transformers."""
        encoded = self.plain_tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.short, return_tensors="pt"
        )
        logits: torch.Tensor = self.plain(**encoded).logits
        return logits.float()

    def _check_language(self) -> None:
        """Compare the logits of next tokens, and what the objective makes of them."""
        rows, places_RP = self.rows, np.stack([_places(row) for row in self.rows])
        alone_RPV = torch.stack([self._plain_tokens(*pair) for pair in zip(rows, places_RP, strict=True)])
        self.scale = _scale(alone_RPV.flatten(0, 1))
        for row, places_P, logits_PV in zip(rows, places_RP, alone_RPV, strict=True):
            kept = places_P[-2] + 1
            changed = np.concatenate([row[:kept], np.flip(row[kept:]), row[:1]])
            self._compare(
                "it is no language model: later tokens change the logits of earlier ones",
                self._plain_tokens(changed, places_P[:-1]),
                logits_PV[:-1],
            )
        if self.spec.completion_score is not None:
            self._check_scores(self.spec.completion_score)
            return
        num = len(self._beside) - 1
        with logits_at(self.network.hf, np.concatenate([places_RP[:num], _places(self.full_row)[None]])):
            beside_RPV = self.network(*self._batch(self._beside).inputs)
        self._compare(_BESIDE, beside_RPV[:-1], alone_RPV[:num])
        with logits_at(self.network.hf, places_RP):
            self._compare(_TRAINING, self.network.train()(*self._batch(rows).inputs), alone_RPV)
        self.network.eval()
        if self.spec.objective == "answer":
            self._check_generation(alone_RPV[:, -1])

    def _plain_tokens(self, row: TokenRow, places_P: IntArray) -> torch.Tensor:
        """Return the exported model's logits_PV at these places of one row."""
        with logits_at(self.plain, places_P[None]):
            logits: torch.Tensor = self.plain(input_ids=torch.from_numpy(row[None].astype(np.int64))).logits[0]
        return logits.float()

    def _check_scores(self, score: Score) -> None:
        """Compare the stage's scores of completions with the sums of the exported model's log-probabilities."""
        examples = ClassObjective(self.inputs).texts(self.inputs.rows_N, self.context, ())
        assert examples.first is not None
        num = max(int((examples.padded_N.cumsum() <= _BATCH_TOKENS).sum()), 1)
        places = np.arange(len(examples.tokens)).reshape(-1, len(examples))[:, :num].ravel()
        sums = []
        for row, first in ((examples.tokens[place], examples.first[place]) for place in places):
            logs_PV = self._plain_tokens(row, np.arange(first - 1, len(row) - 1)).log_softmax(dim=-1)
            logs_P = logs_PV[torch.arange(len(logs_PV)), torch.from_numpy(row[first:].astype(np.int64))]
            sums.append(logs_P.mean() if score.normalise else logs_P.sum())
        scores_XN = torch.stack(sums).view(examples.texts_per_example, -1)
        if score.calibrate:
            scores_XN = scores_XN[: self.spec.num_classes] - scores_XN[self.spec.num_classes :]
        batch, expected_NC = self.inputs.feeder(examples).collate(np.arange(num)), score.beta * scores_XN.T
        for message, trains in (("the exported model scores completions otherwise", False), (_TRAINING, True)):
            actual_NC = self.network.train(trains)(*batch.inputs)
            self._compare(message, actual_NC, expected_NC, 1.0)  # sums of logits compared already
        self.network.eval()

    def _check_generation(self, last_RV: torch.Tensor) -> None:
        """Compare the logits of the first token that the stage, and the exported model, would write."""
        pad = self.inputs.tokenizer.pad_token_id
        tokens_RT, mask_RT = left_padded(self._batch(self.rows), pad)
        settings = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
        for message, hf in (
            ("padding before a text changes what is written after it", self.network.hf),
            ("the exported model writes otherwise", self.plain),
        ):
            with logits_at(hf, np.full((len(tokens_RT), 1), -1)):
                written = hf.generate(tokens_RT, attention_mask=mask_RT, **settings)
            self._compare(message, written.logits[0].float(), last_RV)
            if not torch.equal(written.sequences[:, -1], written.logits[0].argmax(dim=-1)):
                raise ModelError(f"{self.name} does not write the likeliest token", PAGE)

    def _batch(self, rows: Sequence[TokenRow]) -> MicroBatch:
        return self.inputs.feeder(Examples(tokens=list(rows))).collate(np.arange(len(rows)))

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


def _places(row: TokenRow) -> IntArray:
    """Return places of a row at which logits are compared: within its first two thirds, and the last."""
    kept = max(2 * len(row) // 3, 1)
    return np.append(np.linspace(0, kept - 1, _PLACES - 1).round().astype(np.int64), len(row) - 1)


def _scale(logits: torch.Tensor) -> float:
    """Return the range of the logits over the first axis, at its widest; random heads give all texts similar ones."""
    return float((logits.max(dim=0).values - logits.min(dim=0).values).max())


def _shown(tokens: Sequence[str]) -> str:
    return " ".join(tokens if len(tokens) <= 8 else [*tokens[:4], "…", *tokens[-4:]])


def _change_adapters(network: Network) -> None:
    """Give LoRA adapters values, so that merging them matters."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.hf.named_parameters():
        if ".lora_B." in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * _CHANGE_STD)
