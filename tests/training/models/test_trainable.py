"""Which weights a stage trains: all, its head (probe), LoRA adapters and the head, or none (prompt)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from tests.training.conftest import Onlooker, Tiny, make_tiny
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import DataError, ModelError
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Lora, ModelSource, Prompt
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training import checkpoints
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.models.adapters import merge_adapters
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.prompts import prompt_tokens
from w2s_ray.training.objectives import ClassObjective
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

BOTH = ("small", "large")


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    def method(**trainable: object) -> dict[str, object]:
        return {"arms": ["chain", "ceiling"], "trainable": dict.fromkeys(BOTH, trainable)}

    methods = {
        "naive": {"arms": ["chain", "ceiling"]},
        "probe": method(kind="probe"),
        "lora": method(kind="lora", rank=2),
        "asked": method(kind="prompt"),
        "shots": method(kind="prompt", num_shots=3),
    }
    return make_tiny(tmp_path, methods=methods)


def student_of(tiny: Tiny, method: str, arm: str = "chain", **execution: object) -> PlannedStage:
    stage = tiny.chain(method, **execution).find(arm, "large")  # type: ignore[arg-type]
    assert stage is not None
    return stage


def run(tiny: Tiny, workers: Workers, stage: PlannedStage, **onlooker: int) -> None:
    run_stage(stage, store=tiny.store, workers=workers, observer=Onlooker(**onlooker))


def weights_of(tiny: Tiny, stage: PlannedStage) -> dict[str, torch.Tensor]:
    record = tiny.store.find(stage.identity)
    assert record is not None
    return load_file(tiny.store.verify(record) / "model" / "model.safetensors")


def source_weights(stage: PlannedStage) -> dict[str, torch.Tensor]:
    return load_file(Path(stage.spec.starts_from.name) / "model.safetensors")


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_probe_trains_the_head_alone(tiny: Tiny, alone: Workers, zero_stage: int) -> None:
    stage = student_of(tiny, "probe", "ceiling", zero_stage=zero_stage)
    run(tiny, alone, stage)
    trained, source = weights_of(tiny, stage), source_weights(stage)
    for name in (name for name in trained if name != "score.weight"):
        torch.testing.assert_close(trained[name], source[name], rtol=0, atol=0)
    folder = Path(stage.spec.starts_from.name)
    begun = load_network(stage.spec, folder, load_tokenizer(folder, None), Execution()).hf.score.weight
    assert not torch.allclose(trained["score.weight"], begun, atol=1e-4)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_lora_is_merged_and_has_the_given_rank(tiny: Tiny, alone: Workers, zero_stage: int) -> None:
    stage = student_of(tiny, "lora", "ceiling", zero_stage=zero_stage)
    run(tiny, alone, stage)
    trained, source = weights_of(tiny, stage), source_weights(stage)
    assert set(trained) == {*source, "score.weight"}
    name = "model.layers.0.mlp.up_proj.weight"
    values = torch.linalg.svdvals(trained[name] - source[name])
    assert values[1] > 1e-4 and values[2] < 1e-6, "rank 2"
    embeddings = "model.embed_tokens.weight"
    torch.testing.assert_close(trained[embeddings], source[embeddings], rtol=0, atol=0)


def test_the_stored_model_with_merged_lora_predicts_what_its_stage_predicted(tiny: Tiny, alone: Workers) -> None:
    stage = student_of(tiny, "lora", "ceiling")
    run(tiny, alone, stage)
    record = tiny.store.find(stage.identity)
    assert record is not None and stage.test_prediction is not None
    folder = tiny.store.verify(record) / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), load_tokenizer(folder, None)
    texts = tiny.prepared.texts(rows_of_split(tiny.prepared, stage.test_prediction.split))
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    kept = tiny.store.read_predictions(stage.test_prediction.identity).probs_NC
    np.testing.assert_allclose(probs.numpy(), kept, atol=1e-5)


def test_lora_merges_into_layers_with_transposed_weights(tiny: Tiny, tmp_path: Path) -> None:
    folder, tokenizer = tmp_path / "gpt2", load_tokenizer(TOKENIZER, None)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    source = ModelSource(name=str(folder), revision="tiny")
    spec = student_of(tiny, "lora", "ceiling").spec.model_copy(update={"starts_from": source})
    network = load_network(spec, folder, tokenizer, Execution()).eval()
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    tokens, last = torch.tensor([[5, 6, 7]]), torch.tensor([2])
    expected = network(tokens, last)
    weights = merge_adapters(
        network.hf, {name: each.detach().clone() for name, each in network.hf.state_dict().items()}
    )
    plain = load_network(
        spec.model_copy(update={"trainable": tiny.chain("naive").stages[0].spec.trainable}),
        folder,
        tokenizer,
        Execution(),
    ).eval()
    plain.hf.load_state_dict(weights)
    torch.testing.assert_close(plain(tokens, last), expected)


@pytest.mark.parametrize("target", ["query", "embed_tokens"])
def test_lora_targets_that_are_no_linear_layers_are_refused(tiny: Tiny, target: str) -> None:
    stage = student_of(tiny, "lora")
    spec = stage.spec.model_copy(update={"trainable": Lora(targets=("q_proj", target))})
    folder = Path(spec.starts_from.name)
    with pytest.raises(ModelError, match="q_proj"):
        load_network(spec, folder, load_tokenizer(folder, None), Execution())


@pytest.mark.parametrize("method", ["probe", "lora"])
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_probes_and_lora_resume_from_their_checkpoint(
    tiny: Tiny, alone: Workers, method: str, zero_stage: int, tmp_path: Path
) -> None:
    stage = student_of(tiny, method, "ceiling", zero_stage=zero_stage)
    run(tiny, alone, stage, stop_at=3)
    assert tiny.store.find(stage.identity) is None
    run(tiny, alone, stage)
    other = ArtifactStore(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(tiny.store.root / "data")
    run_stage(stage, store=other, workers=alone, observer=Onlooker())
    assert stage.test_prediction is not None
    resumed, whole = (store.read_predictions(stage.test_prediction.identity) for store in (tiny.store, other))
    np.testing.assert_allclose(np.log(resumed.probs_NC), np.log(whole.probs_NC), atol=1e-6)


@pytest.mark.parametrize("method", ["naive", "lora"])
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_checkpoint_requires_the_disk_space_that_it_uses(
    tiny: Tiny, alone: Workers, method: str, zero_stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[int] = []
    monkeypatch.setattr(checkpoints, "require_space", lambda _, num_bytes: asked_for.append(num_bytes))
    stage = student_of(tiny, method, "ceiling", zero_stage=zero_stage)
    run(tiny, alone, stage, stop_at=1)
    files = tiny.store.folder(stage.spec.slug, stage.identity).glob("checkpoints/step*/*.safetensors")
    taken = sum(tensor.nbytes for file in files for tensor in load_file(file).values())
    assert asked_for == [taken]


def test_a_probe_has_a_second_ceiling_that_trains_all_weights(tiny: Tiny) -> None:
    full = student_of(tiny, "probe", "full_ceiling").spec
    plain = student_of(tiny, "naive", "ceiling").spec
    assert full.identity == plain.identity, "it is the ceiling that other methods have"


def test_a_prompt_scores_a_class_by_the_mean_log_probability_of_its_name(tiny: Tiny, alone: Workers) -> None:
    stage = student_of(tiny, "asked", "ceiling")
    run(tiny, alone, stage)
    prediction = stage.test_prediction
    assert prediction is not None and isinstance(stage.spec.trainable, Prompt)
    kept = tiny.store.read_predictions(prediction.identity).probs_NC
    folder = Path(stage.spec.starts_from.name)
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), load_tokenizer(folder, None)
    for text, probs in zip(
        tiny.prepared.texts(rows_of_split(tiny.prepared, prediction.split))[:5], kept[:5], strict=True
    ):
        asked = tokenizer.encode(text + stage.spec.trainable.cue, add_special_tokens=False)
        scores = []
        for name in ("down", "up"):
            named = tokenizer.encode(f" {name}", add_special_tokens=False)
            with torch.no_grad():
                log_probs = model(torch.tensor([[*asked, *named]])).logits[0].log_softmax(-1)
            scores.append(np.mean([float(log_probs[len(asked) - 1 + at, token]) for at, token in enumerate(named)]))
        np.testing.assert_allclose(probs, np.exp(scores) / np.exp(scores).sum(), atol=1e-5)


def test_shots_have_supervisor_labels_for_students_and_truth_for_ceilings(tiny: Tiny, alone: Workers) -> None:
    from w2s_ray.data.prepare import load_prepared

    chain = tiny.chain("shots")
    floor, student, ceiling = chain.stages[0], chain.find("chain", "large"), chain.find("ceiling", "large")
    assert student is not None and ceiling is not None
    run(tiny, alone, floor)
    shots = {}
    for stage in (student, ceiling):
        shots[stage.arm] = ClassObjective(StageInputs(stage, tiny.store, alone))._shots
    prepared = load_prepared(tiny.store, student.spec.train[0].split.task)
    rows = rows_of_split(prepared, student.spec.train[0].split)
    label = dict(zip(prepared.texts(rows), prepared.labels(rows), strict=True))
    weak = tiny.store.read_predictions(student.spec.train[0].labels.predictions[0])  # type: ignore[union-attr]
    named = dict(zip(weak.ids, weak.probs_NC.argmax(axis=1), strict=True))
    guess = {text: named[id_] for text, id_ in zip(prepared.texts(rows), prepared.ids(rows), strict=True)}
    for arm, truth in (("chain", guess), ("ceiling", label)):
        lines = [shot.strip().split("\nAnswer: ") for shot in shots[arm]]
        assert len(lines) == 3
        answers = [answer for _, answer in lines]
        assert answers == [("down", "up")[truth[text]] for text, _ in lines]
        if len(set(truth.values())) > 1:
            assert answers[0] != answers[1], "classes take turns"


def test_a_prompted_stage_stores_no_model_and_can_predict_later(tiny: Tiny, alone: Workers) -> None:
    stage = student_of(tiny, "asked", "ceiling")
    run(tiny, alone, stage.model_copy(update={"predicts": ()}))
    record = tiny.store.find(stage.identity)
    assert record is not None and record.metrics["num_steps"] == 0
    assert not (tiny.store.verify(record) / "model").exists()
    run(tiny, alone, stage)
    assert stage.test_prediction is not None
    assert len(tiny.store.read_predictions(stage.test_prediction.identity).ids) == 60


def with_context(stage: PlannedStage, context_tokens: int) -> PlannedStage:
    settings = stage.spec.optimisation.model_copy(update={"context_tokens": context_tokens})
    predicts = tuple(spec.model_copy(update={"context_tokens": context_tokens}) for spec in stage.predicts)
    spec = stage.spec.model_copy(update={"optimisation": settings})
    return stage.model_copy(update={"spec": spec, "predicts": predicts})


def test_a_prompt_has_as_many_shots_as_fit_before_its_whole_text() -> None:
    tokenizer, prompt = load_tokenizer(TOKENIZER, None), Prompt(num_shots=2, cue="\nAnswer:")
    shots = ["a first shot\nAnswer: up\n\n", "a second shot\nAnswer: down\n\n"]
    texts = ["short", "a text of several words"]
    whole = [[f"{''.join(shots[:num])}{text}{prompt.cue}" for text in texts] for num in range(3)]
    num_tokens = [[len(tokens) for tokens in tokenizer(prompts)["input_ids"]] for prompts in whole]
    room = num_tokens[2][0]
    assert num_tokens[1][1] <= room < num_tokens[2][1]
    prompts = prompt_tokens(tokenizer, prompt, shots, texts, room)
    assert prompts.num_shots_N.tolist() == [2, 1] and not prompts.is_cut_N.any()
    assert [tokenizer.decode(row) for row in prompts.rows] == [whole[2][0], whole[1][1]]


def test_a_text_that_fits_without_shots_only_has_none_and_a_longer_one_is_cut() -> None:
    tokenizer, prompt = load_tokenizer(TOKENIZER, None), Prompt(num_shots=1, cue="\nAnswer:")
    text = "one two three four five six seven eight — nine!"
    size = len(tokenizer.encode(text + prompt.cue))
    for room, is_cut in ((size, False), (size - 3, True)):
        prompts = prompt_tokens(tokenizer, prompt, ["a shot that goes\nAnswer: up\n\n"], [text], room)
        assert (prompts.num_shots_N.tolist(), prompts.is_cut_N.tolist()) == ([0], [is_cut])
        (row,) = prompts.rows
        assert len(row) == room and text.endswith(tokenizer.decode(row).removesuffix(prompt.cue))
    with pytest.raises(DataError, match="the cue of a prompt"):
        prompt_tokens(tokenizer, prompt, [], [text], len(tokenizer.encode(prompt.cue)))


def test_cut_prompts_are_counted_and_the_first_are_named(
    tiny: Tiny, alone: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = with_context(student_of(tiny, "asked", "ceiling").model_copy(update={"predicts": ()}), 24)
    run(tiny, alone, stage)
    tokenizer = load_tokenizer(Path(stage.spec.starts_from.name), None)
    rows = rows_of_split(tiny.prepared, stage.spec.train[0].split)
    longest = max(len(tokenizer.encode(f" {name}")) for name in ("down", "up"))
    cut = [
        id_
        for id_, text in zip(tiny.prepared.ids(rows), tiny.prepared.texts(rows), strict=True)
        if len(tokenizer.encode(f"{text}\nAnswer:")) + longest > 24
    ]
    record = tiny.store.find(stage.identity)
    assert record is not None and 0 < len(cut) < len(rows)
    assert record.metrics["cut_examples"] == len(cut)
    output = capsys.readouterr().out
    assert f"{len(cut)} of {len(rows)} texts exceed" in output and cut[0] in output


def with_room_for_two_shots(tiny: Tiny, workers: Workers) -> tuple[PlannedStage, list[int]]:
    """A stage of three shots, in a context in which half of its texts have room for two, and the shots of each text."""
    stage = student_of(tiny, "shots", "ceiling").model_copy(update={"predicts": ()})
    objective = ClassObjective(StageInputs(with_context(stage, 1000), tiny.store, workers))
    tokenizer = load_tokenizer(Path(stage.spec.starts_from.name), None)
    texts = tiny.prepared.texts(rows_of_split(tiny.prepared, stage.spec.train[0].split))
    num_tokens = [
        [len(tokenizer.encode("".join(objective._shots[:num]) + text + "\nAnswer:")) for text in texts]
        for num in range(3)
    ]
    longest = max(len(tokenizer.encode(f" {name}")) for name in ("down", "up"))
    room = sorted(num_tokens[2])[len(texts) // 2]
    num_shots = [max(num for num in range(3) if num_tokens[num][place] <= room) for place in range(len(texts))]
    assert 0 < sum(num_shots) < 2 * len(texts)
    return with_context(stage, room + longest), num_shots


def test_shots_that_do_not_fit_are_left_out_and_counted(
    tiny: Tiny, alone: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    """With five shots in 512 tokens every draw of BoolQ failed."""
    stage, num_shots = with_room_for_two_shots(tiny, alone)
    run(tiny, alone, stage)
    record, num_texts = tiny.store.find(stage.identity), len(num_shots)
    assert record is not None and record.metrics["texts_with_fewer_shots"] == num_texts
    assert record.metrics["mean_shots"] == pytest.approx(np.mean(num_shots)) and record.metrics["cut_examples"] == 0
    assert f"{num_texts} of {num_texts} texts leave no room for 3 shots" in capsys.readouterr().out


def test_a_calibrated_prompt_without_content_has_the_shots_of_its_text(tiny: Tiny, alone: Workers) -> None:
    stage, num_shots = with_room_for_two_shots(tiny, alone)
    objective = ClassObjective(StageInputs(stage, tiny.store, alone))
    tokenizer = load_tokenizer(Path(stage.spec.starts_from.name), None)
    rows = objective._blanks(np.array(num_shots), stage.spec.optimisation.context_tokens)
    for num, row in zip(num_shots, rows, strict=True):
        assert tokenizer.decode(row) == "".join(objective._shots[:num]) + "\nAnswer:"
