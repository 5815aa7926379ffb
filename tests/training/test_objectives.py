"""Objectives of pairs and answers: what chains learn and predict."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from tests.training.conftest import Onlooker, Pairings, Replies, Tiny, make_tiny
from w2s_ray.data.batches import plan_steps
from w2s_ray.data.splits import rows_of_split
from w2s_ray.spec.chain import Chain
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.stage import Prompt
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.language_objectives import AnswerObjective, answer_tokens
from w2s_ray.training.loop import Loop
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import PairNetwork
from w2s_ray.training.models.prompts import prompt_tokens
from w2s_ray.training.progress import TrainState
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

LONGER = {"learning_rate": 1e-2, "examples_per_step": 16, "epochs": 4.0}
LONG = {"learning_rate": 2e-2, "examples_per_step": 16, "epochs": 8.0}


def run_chain(tiny: Tiny, workers: Workers, method: str = "naive", **execution: object) -> Chain:
    chain = tiny.chain(method, **execution)
    for stage in chain.stages:
        run_stage(stage, store=tiny.store, workers=workers, observer=Onlooker())
    return chain


@pytest.fixture
def pairs(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path, Pairings(), optimisation=LONGER)


@pytest.fixture
def replies(tmp_path: Path) -> Tiny:
    return make_tiny(
        tmp_path,
        Replies(),
        optimisation=LONG | {"context_tokens": 64},
        methods={"naive": {"arms": ["chain", "ceiling"]}},
    )


def network_of(tiny: Tiny) -> PairNetwork:
    spec = tiny.chain().stages[0].spec
    folder = Path(spec.starts_from.name)
    network = load_network(spec, folder, load_tokenizer(folder, None), Execution()).eval()
    assert isinstance(network, PairNetwork)
    return network


def test_a_pair_is_judged_by_one_score_for_each_text(pairs: Tiny) -> None:
    network = network_of(pairs)
    assert network.hf.config.num_labels == 1
    tokens, last = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([2, 1])
    logits = network(tokens, last)
    assert logits.shape == (1, 2)
    scores = network.hf(tokens, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]])).logits[:, 0]
    torch.testing.assert_close(logits.softmax(-1)[0, 1], torch.sigmoid(scores[1] - scores[0]))


def test_swapping_a_pair_swaps_its_logits(pairs: Tiny) -> None:
    network = network_of(pairs)
    tokens, last = torch.tensor([[5, 6, 7], [4, 3, 2], [8, 9, 0], [3, 3, 3]]), torch.tensor([2, 2, 1, 2])
    swapped = [2, 3, 0, 1]
    torch.testing.assert_close(network(tokens, last), network(tokens[swapped], last[swapped]).flip(1))


def test_the_pair_score_starts_from_the_unembedding_row_of_1(pairs: Tiny) -> None:
    network, folder = network_of(pairs), Path(pairs.study.ladder["small"].model)
    (token,) = load_tokenizer(folder, None).encode("1", add_special_tokens=False)
    torch.testing.assert_close(network.hf.score.weight[0], network.hf.get_input_embeddings().weight[token])


def test_a_chain_learns_which_of_two_texts_is_better(pairs: Tiny, alone: Workers) -> None:
    chain = run_chain(pairs, alone)
    for arm in ("chain", "ceiling"):
        stage = chain.find(arm, "large")
        assert stage is not None and stage.test_prediction is not None
        kept = pairs.store.read_predictions(stage.test_prediction.identity)
        truth = pairs.prepared.labels(rows_of_split(pairs.prepared, stage.test_prediction.split))
        assert (kept.probs_NC.argmax(axis=1) == truth).mean() > 0.9


def test_texts_longer_than_the_context_are_counted_and_the_first_are_named(
    replies: Tiny, pairs: Tiny, alone: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    for tiny in (replies, pairs):
        stage = tiny.chain().stages[0].model_copy(update={"predicts": ()})
        shorter = stage.spec.optimisation.model_copy(update={"context_tokens": 12, "epochs": 1.0})
        stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": shorter})})
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
        rows = rows_of_split(tiny.prepared, stage.spec.train[0].split)
        tokenizer = load_tokenizer(Path(stage.spec.starts_from.name), None)
        texts = [tokenizer.encode(text, add_special_tokens=False) for text in tiny.prepared.texts(rows)]
        others = tiny.prepared.others(rows)
        if tiny.prepared.kind == "pairs":
            seconds = [tokenizer.encode(text, add_special_tokens=False) for text in others]
            longest = [max(len(first), len(second)) for first, second in zip(texts, seconds, strict=True)]
        else:
            longest = [len(text) + len(end) for text, end in zip(texts, answer_tokens(tokenizer, others), strict=True)]
        cut = [id_ for id_, length in zip(tiny.prepared.ids(rows), longest, strict=True) if length > 12]
        record = tiny.store.find(stage.identity)
        assert record is not None and 0 < len(cut) < len(rows)
        assert record.metrics["cut_examples"] == len(cut)
        output = capsys.readouterr().out
        assert f"{len(cut)} of {len(rows)} texts exceed" in output and cut[0] in output


def test_a_chain_of_answers_learns_its_supervisors_answers(replies: Tiny, alone: Workers) -> None:
    chain = run_chain(replies, alone)
    for stage in chain.stages:
        assert stage.test_prediction is not None
        kept = replies.store.read_answers(stage.test_prediction.identity)
        rows = rows_of_split(replies.prepared, stage.test_prediction.split)
        assert list(kept.ids) == replies.prepared.ids(rows)
        assert np.mean([a == b for a, b in zip(kept.texts, replies.prepared.others(rows), strict=True)]) > 0.9
    student = chain.find("chain", "large")
    assert student is not None
    record = replies.store.find(student.identity)
    assert record is not None and record.metrics["validation_agreement"] > 0.9
    assert "validation_accuracy" not in record.metrics, "the truth of Vi is for reports and oracles"


def test_student_and_ceiling_share_batches_despite_different_answer_lengths(
    replies: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = replies.chain()
    student, ceiling = chain.find("chain", "large"), chain.find("ceiling", "large")
    assert student is not None and ceiling is not None and student.spec.validation is not None
    for part in (student.spec.train[0], student.spec.validation):
        rows = rows_of_split(replies.prepared, part.split)
        written = ["down down down down" if at % 3 else "up" for at in range(len(rows))]
        prediction = next(spec for spec in chain.stages[0].predicts if spec.split == part.split)
        replies.store.write_answers(prediction, replies.prepared.ids(rows), written, np.ones(len(rows), dtype=bool))
    planned = []
    run = Loop.run

    def watched(loop: Loop, state: TrainState) -> tuple[TrainState, bool]:
        planned.append((loop.steps, loop.feeder.examples.lengths_N))
        return run(loop, state)

    monkeypatch.setattr(Loop, "run", watched)
    for stage in (student, ceiling):
        run_stage(stage.model_copy(update={"predicts": ()}), store=replies.store, workers=alone, observer=Onlooker())
    (steps, lengths_N), (ceilings, ceilings_lengths_N) = planned
    assert not np.array_equal(lengths_N, ceilings_lengths_N)
    assert [step.tolist() for step in steps] == [step.tolist() for step in ceilings]


def test_only_the_answers_tokens_are_trained_on(replies: Tiny, alone: Workers) -> None:
    stage = replies.chain().stages[0].model_copy(update={"predicts": ()})
    spec, settings = stage.spec, stage.spec.optimisation
    run_stage(stage, store=replies.store, workers=alone, observer=Onlooker())
    lines = (replies.store.folder(spec.slug, spec.identity) / "metrics.jsonl").read_text().splitlines()
    folder = Path(spec.starts_from.name)
    tokenizer = load_tokenizer(folder, None)
    network = load_network(spec, folder, tokenizer, Execution()).eval()
    rows = rows_of_split(replies.prepared, spec.train[0].split)
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in replies.prepared.texts(rows)]
    ends = answer_tokens(tokenizer, replies.prepared.others(rows))
    assert all(end[-1] == tokenizer.eos_token_id for end in ends)
    whole = [[*text, *end.tolist()] for text, end in zip(texts, ends, strict=True)]
    first = plan_steps(
        np.array([len(row) for row in texts]),
        epochs=settings.epochs,
        examples_per_step=settings.examples_per_step,
        order_seed=spec.order_seed,
        bucketing_window=settings.bucketing_window,
    )[0]
    losses = []
    with torch.no_grad():
        for at in first:
            log_probs = network.hf(torch.tensor([whole[at]])).logits[0].log_softmax(-1)
            losses += [
                -float(log_probs[place - 1, whole[at][place]]) for place in range(len(texts[at]), len(whole[at]))
            ]
    assert json.loads(lines[0])["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_an_answer_prompt_is_its_shots_and_the_text(tmp_path: Path, alone: Workers) -> None:
    methods = {"shots": {"arms": ["ceiling", "zero_shot"], "trainable": {"large": {"kind": "prompt", "num_shots": 2}}}}
    tiny = make_tiny(tmp_path, Replies(), optimisation={"context_tokens": 64}, methods=methods)
    chain = tiny.chain("shots")
    for arm, num_shots in (("zero_shot", 0), ("ceiling", 2)):
        stage = chain.find(arm, "large")  # type: ignore[arg-type]
        assert stage is not None and stage.test_prediction is not None
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
        kept = tiny.store.read_answers(stage.test_prediction.identity)
        folder = Path(stage.spec.starts_from.name)
        tokenizer, model = load_tokenizer(folder, None), AutoModelForCausalLM.from_pretrained(folder).eval()
        rows = rows_of_split(tiny.prepared, stage.spec.train[0].split)
        by_coin = sorted(
            zip(tiny.prepared.ids(rows), tiny.prepared.texts(rows), tiny.prepared.others(rows), strict=True),
            key=lambda row: seeded_hash(stage.spec.order_seed, "shot", row[0]),
        )
        before = "".join(f"{text} {answer}\n\n" for _, text, answer in by_coin[:num_shots])
        longest = max(len(tokens) for tokens in answer_tokens(tokenizer, ["down", "up"]))
        texts = tiny.prepared.texts(rows_of_split(tiny.prepared, stage.test_prediction.split))
        for text, written in list(zip(texts, kept.texts, strict=True))[:5]:
            tokens = tokenizer.encode(before + text, add_special_tokens=False)[-(64 - longest) :]
            for _ in range(longest):
                with torch.no_grad():
                    tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            expected = tokens[-longest:]
            if tokenizer.eos_token_id in expected:
                expected = expected[: expected.index(tokenizer.eos_token_id)]
            assert written == tokenizer.decode(expected).lstrip().split("\n", 1)[0].rstrip()


def test_beginning_of_text_token_precedes_texts_with_answers_and_prompts(replies: Tiny, alone: Workers) -> None:
    stage = replies.chain().stages[0]
    settings = stage.spec.optimisation.model_copy(update={"context_tokens": 12})
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": settings})})
    folder = Path(stage.spec.starts_from.name)
    tokenizer = load_tokenizer(folder, None)
    begin = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", begin)]
    )
    tokenizer.save_pretrained(folder)
    examples = AnswerObjective(StageInputs(stage, replies.store, alone)).examples
    rows = rows_of_split(replies.prepared, stage.spec.train[0].split)
    ends = answer_tokens(tokenizer, replies.prepared.others(rows))
    texts = [tokenizer.encode(text, add_special_tokens=False) for text in replies.prepared.texts(rows)]
    for row, start, text, end in zip(examples.tokens, examples.loss_from_N, texts, ends, strict=True):
        assert row.tolist() == [begin, *text[-(11 - len(end)) :], *end.tolist()]
        assert row[start:].tolist() == end.tolist()
    (prompt,), (is_cut,), _ = prompt_tokens(tokenizer, Prompt(cue=""), [], ["a text of some words and more of them"], 4)
    assert is_cut and len(prompt) == 4 and prompt[0] == begin and begin not in prompt[1:]
