"""Objectives of language models: answers after texts, and text alone.

An answer is learned as a space, its text, and the end-of-text token. A generated answer is read up to its first line
end, without surrounding white space. A model may write as many tokens as the task's longest answer has: this length is
all that is taken from the truth.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from w2s_ray.data import labels
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import DataError
from w2s_ray.science import IntArray
from w2s_ray.science.metrics import share_equal
from w2s_ray.spec.labels import LabelledSplit, SplitSpec
from w2s_ray.spec.stage import PredictionSpec, Prompt
from w2s_ray.training.feed import Examples, Feeder, LanguageExamples, MicroBatch, TokenRow
from w2s_ray.training.losses import BatchLoss, TokenBatchLoss, loss_from, token_cross_entropy
from w2s_ray.training.models.network import Network, evaluating
from w2s_ray.training.models.prompts import Prompts, few_shots, join_to_context, prompt_tokens
from w2s_ray.training.objectives import ACCURACY, AGREEMENT, HELD_OUT, StageObjective

_HELD_OUT_BLOCKS = 256
"""Blocks of held-out text that pretraining is validated on."""
_HELD_OUT_ROUND = 64
"""Blocks of one round of forward passes over all ranks."""


class AnswerObjective(StageObjective):
    """Texts, each with an answer to be written after it; only the answer's tokens are learned."""

    @cached_property
    def examples(self) -> LanguageExamples:
        context = self._spec.optimisation.context_tokens
        assert self._max_tokens < context
        rows_N, answers = self._answers
        texts = self._inputs.tokens.rows(rows_N, self._text_tokens_N)
        rows = [join_to_context(text, answer, context) for text, answer in zip(texts, answers, strict=True)]
        starts = [max(len(row) - len(answer), 1) for row, answer in zip(rows, answers, strict=True)]
        return LanguageExamples(tokens=rows, loss_from_N=np.array(starts, dtype=np.int64))

    @property
    def planned_lengths_N(self) -> IntArray:
        """Tokens of the texts alone: the length of answers depends on their source, and arms share their batches."""
        rows_N, _ = self._answers
        return self._inputs.texts(rows_N, self._spec.optimisation.context_tokens).lengths_N

    def truncated_ids(self) -> list[str]:
        prepared, context = self._inputs.prepared, self._spec.optimisation.context_tokens
        rows_N, _ = self._answers
        if self._prompt is not None:
            return prepared.ids(rows_N[self._prompts(self._prompt, rows_N, context).is_cut_N])
        return prepared.ids(rows_N[self._inputs.tokens.are_longer(rows_N, self._text_tokens_N)])

    def names(self, positions_N: IntArray) -> list[str]:
        return self._inputs.prepared.ids(self._answers[0][positions_N])

    def loss(self) -> BatchLoss:
        return TokenBatchLoss(self.examples)

    def validate(self, network: Network) -> dict[str, float]:
        rows_N, wanted = self._validation
        generated = self._generate(network, rows_N, self._spec.optimisation.context_tokens)
        truth = self._inputs.prepared.others(rows_N)
        return {AGREEMENT: share_equal(generated, wanted), ACCURACY: share_equal(generated, truth)}

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        """Write the answers, and whether the task's judge allows each; forbidden answers are kept."""
        inputs = self._inputs
        rows_N = rows_of_split(inputs.prepared, prediction.split)
        generated = self._generate(network, rows_N, prediction.context_tokens)

        def write() -> None:
            allowed_N = inputs.prepared.allowed(rows_N, generated)
            inputs.store.write_answers(prediction, inputs.prepared.ids(rows_N), generated, allowed_N)

        inputs.workers.on_rank_0(write)

    def write_labels(self, folder: Path) -> None:
        raise AssertionError("answers have no transforms")

    @cached_property
    def _answers(self) -> tuple[IntArray, list[TokenRow]]:
        """Rows of the task that are learned, and the tokens of their answers."""
        rows_N, answers = self._answers_of(self._spec.train)
        return rows_N, answer_tokens(self._inputs.tokenizer, answers)

    @cached_property
    def _text_tokens_N(self) -> IntArray:
        """Tokens that each answer leaves for its text."""
        _, answers = self._answers
        return self._spec.optimisation.context_tokens - np.array([len(answer) for answer in answers], dtype=np.int64)

    @cached_property
    def _validation(self) -> tuple[IntArray, list[str]]:
        """Rows of Vi, and the answers of its labels."""
        assert self._spec.validation is not None
        return self._answers_of((self._spec.validation,))

    def _answers_of(self, parts: Sequence[LabelledSplit]) -> tuple[IntArray, list[str]]:
        answers = [labels.answers(self._inputs.store, self._inputs.prepared, part) for part in parts]
        return np.concatenate([rows for rows, _ in answers]), [answer for _, texts in answers for answer in texts]

    def _generate(self, network: Network, rows_N: IntArray, context: int) -> list[str]:
        inputs, room = self._inputs, context - self._max_tokens
        if self._prompt is None:
            rows = inputs.tokens.rows(rows_N, room)
        else:
            rows = self._prompts(self._prompt, rows_N, context).rows
        feeder = inputs.feeder(Examples(tokens=rows))
        return generate_answers(network, feeder, inputs.tokenizer, self._max_tokens, is_sharded=inputs.is_sharded)

    def num_shots_N(self) -> IntArray | None:
        if self._prompt is None or not self._prompt.num_shots:
            return None
        return self._prompts(self._prompt, self._answers[0], self._spec.optimisation.context_tokens).num_shots_N

    def _prompts(self, prompt: Prompt, rows_N: IntArray, context: int) -> Prompts:
        """Return the rows' prompts, with room for the longest answer."""
        texts, room = self._inputs.prepared.texts(rows_N), context - self._max_tokens
        return prompt_tokens(self._inputs.tokenizer, prompt, self._shots, texts, room)

    @cached_property
    def _max_tokens(self) -> int:
        """Tokens of the task's longest answer."""
        answers = self._inputs.prepared.distinct_others()
        longest = max(len(tokens) for tokens in answer_tokens(self._inputs.tokenizer, answers))
        context = self._spec.optimisation.context_tokens
        if longest + len(self._inputs.tokens.before) >= context:
            raise DataError(
                f"optimisation.context_tokens is {context} and leaves no room for a text beside the longest answer, "
                f"which has {longest} tokens",
                "raise optimisation.context_tokens",
            )
        return longest

    @cached_property
    def _prompt(self) -> Prompt | None:
        """The prompt of a stage that trains nothing, without a cue: the texts of answer tasks contain the question."""
        trainable = self._spec.trainable
        return trainable.model_copy(update={"cue": ""}) if isinstance(trainable, Prompt) else None

    @cached_property
    def _shots(self) -> list[str]:
        prompt, prepared = self._prompt, self._inputs.prepared
        if prompt is None or not prompt.num_shots:
            return []
        rows_N, answers = self._answers_of(self._spec.train)
        return few_shots(prompt, prepared.ids(rows_N), prepared.texts(rows_N), answers, self._spec.order_seed)


class TextObjective(StageObjective):
    """Blocks of text, every token of which is learned: pretraining, or a student's own reading of Ti."""

    @cached_property
    def examples(self) -> LanguageExamples:
        """All documents joined, cut into full blocks."""
        return self._blocks(self._spec.train[0].split)

    def truncated_ids(self) -> list[str]:
        return []

    def names(self, positions_N: IntArray) -> list[str]:
        return [f"block {position}" for position in positions_N.tolist()]

    def loss(self) -> BatchLoss:
        return TokenBatchLoss(self.examples)

    def validate(self, network: Network) -> dict[str, float]:
        feeder = self._inputs.feeder(self._held_out)
        workers = feeder.workers
        total = torch.zeros((), dtype=torch.float64, device=workers.device)
        with evaluating(network):
            for batch in network.fed_by(feeder).sweep(_HELD_OUT_ROUND):
                logits_RTV = network(*batch.inputs)
                total += token_cross_entropy(logits_RTV, batch, loss_from(self._held_out, batch))
        num_tokens = self._held_out.num_loss_tokens(np.arange(len(self._held_out)))
        return {HELD_OUT: float(workers.sum(total)) / max(num_tokens, 1)}

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        raise AssertionError("a stage that learns text predicts nothing")

    def write_labels(self, folder: Path) -> None:
        raise AssertionError("text has no labels")

    @cached_property
    def _held_out(self) -> LanguageExamples:
        assert self._spec.validation is not None
        return self._blocks(self._spec.validation.split, _HELD_OUT_BLOCKS)

    def _blocks(self, split: SplitSpec, at_most: int | None = None) -> LanguageExamples:
        inputs, context = self._inputs, self._spec.optimisation.context_tokens
        texts_N = inputs.prepared.text_numbers(rows_of_split(inputs.prepared, split))
        blocks_NT = inputs.tokens.blocks(texts_N, context, inputs.tokenizer.eos_token_id)[:at_most]
        if not len(blocks_NT):
            raise DataError(
                f"the texts of {split.name} fill no block of {context} tokens",
                "add texts, or lower optimisation.context_tokens",
            )
        return LanguageExamples(tokens=list(blocks_NT), loss_from_N=np.ones(len(blocks_NT), dtype=np.int64))


def answer_tokens(tokenizer: PreTrainedTokenizerFast, answers: Sequence[str]) -> list[TokenRow]:
    """Return the tokens of each answer as it follows a text, with the end-of-text token."""
    spaced = [f" {answer.strip()}" for answer in answers]
    encoded = tokenizer(spaced, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [np.array([*tokens, tokenizer.eos_token_id], dtype=np.int32) for tokens in encoded]


def generate_answers(
    network: Network, feeder: Feeder[Examples], tokenizer: PreTrainedTokenizerFast, max_tokens: int, *, is_sharded: bool
) -> list[str]:
    """Return the network's greedy answer to each text of the feeder, the same on every rank. Collective.

    Args:
        network: a language model.
        feeder: the texts.
        tokenizer: the network's.
        max_tokens: of an answer.
        is_sharded: whether the weights are spread over the ranks, which must then take every step together.
    """
    workers = feeder.workers
    config = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    own: list[tuple[int, str]] = []
    with evaluating(network), network.autocast(workers.device):
        for batch in feeder.sweep():
            tokens_RT, mask_RT = left_padded(batch, tokenizer.pad_token_id)
            output_RT = network.hf.generate(
                tokens_RT, attention_mask=mask_RT, generation_config=config, synced_gpus=is_sharded
            )
            answer_RA = output_RT[:, tokens_RT.shape[1] :]
            texts = (_answer_text(tokenizer, row) for row in answer_RA.tolist())
            own += zip(batch.positions.tolist(), texts, strict=False)  # a filler has a row, and no position
    answers = dict(itertools.chain(*workers.on_every_rank(lambda: own)))
    return [answers[number] for number in range(len(feeder.examples))]


def left_padded(batch: MicroBatch, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens_RT with the padding moved to the left, where generation needs it, and the attention mask."""
    width = batch.tokens_RT.shape[1]
    from_RT = torch.arange(width, device=batch.last_R.device)[None, :] - (width - 1 - batch.last_R)[:, None]
    mask_RT = (from_RT >= 0).long()
    tokens_RT = batch.tokens_RT.gather(1, from_RT.clamp(min=0))
    return torch.where(mask_RT.bool(), tokens_RT, pad), mask_RT


def _answer_text(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    end = tokenizer.eos_token_id
    text: str = tokenizer.decode(tokens[: tokens.index(end)] if end in tokens else tokens)
    return text.lstrip().split("\n", 1)[0].rstrip()
