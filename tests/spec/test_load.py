"""Reading a study file: overrides, YAML, and errors for invalid values."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from w2s_ray.errors import StudyError
from w2s_ray.spec.identity import canonical_json
from w2s_ray.spec.load import load_study, parse_study
from w2s_ray.spec.search import Range


def study(**changes: Any) -> dict[str, Any]:
    return {
        "name": "asked",
        "tasks": {"t": {"builtin": "code_continuation"}},
        "ladder": {"s": {"model": "w2s:small"}, "l": {"model": "w2s:large"}},
        **changes,
    }


@pytest.mark.parametrize("value", [float("nan"), {1: "a key that is no text"}, {1, 2}, b"bytes"])
def test_canonical_json_refuses_what_it_cannot_encode(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical_json(value)


def test_an_override_reaches_names_with_dots(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    ladder = {"pythia-1": "w2s:small", "pythia-1.4b": "w2s:medium", "pythia-2.8b": {"model": "w2s:large"}}
    methods = {"v1.5": {"losses": {"pythia-2.8b": {"kind": "confidence"}}}}
    file.write_text(yaml.safe_dump(study(ladder=ladder, methods=methods), sort_keys=False))
    changes = ["ladder.pythia-1.4b.optimisation.epochs=3", "ladder.pythia-2.8b=w2s:medium"]
    changes += ["ladder.pythia-1.optimisation.epochs=5", "methods.v1.5.losses.pythia-2.8b.alpha_max=0.25"]
    read = load_study(file, changes)
    assert [level.optimisation.epochs for level in read.ladder.values()][:2] == [5, 3]
    assert read.ladder["pythia-2.8b"].model == "w2s:medium" and list(read.ladder) == list(ladder)
    loss = read.methods["v1.5"].losses["pythia-2.8b"]
    assert loss.kind == "confidence" and loss.alpha_max == 0.25


def test_an_override_changes_one_place_that_shares_a_yaml_anchor(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    levels = "  s: &level {model: w2s:small, optimisation: {epochs: 2}}\n  l: {<<: *level, model: w2s:large}\n"
    methods = "  one: {losses: {l: &loss {kind: confidence}}}\n  two: {losses: {l: *loss}}\n"
    file.write_text(f"name: asked\ntasks: {{t: {{builtin: code_continuation}}}}\nladder:\n{levels}methods:\n{methods}")
    read = load_study(file, ["ladder.l.optimisation.epochs=3", "methods.two.losses.l.alpha_max=0.25"])
    assert [level.optimisation.epochs for level in read.ladder.values()] == [2, 3]
    assert [method.losses["l"].model_dump()["alpha_max"] for method in read.methods.values()] == [0.5, 0.25]


def test_an_override_reaches_searched_keys(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    rate, decay = "ladder.l.optimisation.learning_rate", "optimisation.weight_decay"
    space = {rate: {"low": 1e-5, "high": 1e-3}}
    file.write_text(yaml.safe_dump(study(search={"space": space, "sampler": "random", "num_samples": 2})))
    read = load_study(file, [f"search.space.{rate}.high=0.01", f"search.space.{decay}=[0, 0.1]"])
    assert read.search is not None and list(read.search.space) == [rate, decay]
    assert read.search.space[rate] == Range(low=1e-5, high=1e-2) and read.search.space[decay] == (0, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nseeds: [0]\nname: b\n", "duplicate key name in lines 1 and 3"),
        ("ladder:\n  s: w2s:small\n  s: w2s:large\n", "duplicate key s in lines 2 and 3"),
    ],
)
def test_a_duplicate_key_is_refused_with_its_lines(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(StudyError) as refused:
        load_study(file)
    assert refused.value.message == f"{file}: {message}"


def test_a_level_overrides_a_part_of_a_shared_mapping() -> None:
    shared = {"epochs": 2, "early_stopping": {"every_steps": 5, "patience": 4}}
    own = {"s": {"early_stopping": {"patience": 9}}, "l": {"early_stopping": None}}
    ladder = {name: {"model": "w2s:small", "optimisation": each} for name, each in own.items()}
    small, large = parse_study(study(ladder=ladder, optimisation=shared)).ladder.values()
    stopping = small.optimisation.early_stopping
    assert stopping is not None and (stopping.every_steps, stopping.patience) == (5, 9)
    assert large.optimisation.early_stopping is None and large.optimisation.epochs == 2


def test_a_key_without_a_value_is_an_empty_mapping() -> None:
    assert parse_study(study(execution=None)) == parse_study(study())


def test_a_recursive_alias_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: &a [*a]\n")
    with pytest.raises(StudyError, match="recursive"):
        load_study(file)


def test_a_key_overrides_a_merged_mapping(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    levels = "ladder:\n  s: &level {model: w2s:small, optimisation: {epochs: 2}}\n  l: {<<: *level, model: w2s:large}\n"
    file.write_text(f"name: asked\ntasks: {{t: {{builtin: code_continuation}}}}\n{levels}")
    level = load_study(file).ladder["l"]
    assert level.model == "w2s:large" and level.optimisation.epochs == 2


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"execution": {"zero_stage": "3"}}, "zero_stage = '3': must be one of 0, 1, 2, 3", "write 3 without"),
        ({"splits": {"train_examples": "546"}}, "train_examples = '546'", "write 546 without quotation marks"),
        ({"tasks": {"t": {"builtin": "sst2", "test_examples": "9"}}}, "test_examples = '9'", "write 9 without"),
        ({"optimisation": {"epochs": "two"}}, "epochs = 'two': must be a valid number", ""),
        ({"methods": {"x": {"losses": {"l": "confidence"}}}}, "losses.l = 'confidence'", "write {kind: confidence}"),
        ({"methods": {"x": {"losses": "confidence"}}}, "losses = 'confidence'", "{<level>: {kind: confidence}}"),
        ({"execution": {"activation_checkpointing": "maybe"}}, "'maybe': must be one of true, false, auto", ": auto"),
        ({"seeds": 3}, "seeds = 3: must be a list", ""),
        ({"chains": [["s", 3]]}, "chains.0.1 = 3: must be text", ""),
        ({"name": "two words"}, "name = 'two words': must consist of letters", ""),
        ({"ladder": {"s": 3}}, "ladder.s = 3: must be a mapping", ""),
        ({"optimization": {"epochs": 2}}, "unknown key optimization", "did you mean 'optimisation'?"),
        ({"executions": {"workers": 2}}, "unknown key executions", "did you mean 'execution'?"),
        ({"optimisation": {"epoch": 2}}, "unknown key optimisation.epoch", "did you mean 'epochs'?"),
        ({"optimisation": {"prediction_precision": "bf16"}}, "prediction_precision", "is a key at the top"),
        ({"saved_precision": "bf16"}, "unknown key saved_precision", "`saved_precision` is a key of `optimisation`"),
        ({"workers": 2}, "unknown key workers", "`workers` is a key of `execution`"),
        ({"execution": {"zero_stage": 4}}, "zero_stage = 4: must be one of 0, 1, 2, 3", "zero_stage: auto"),
        ({"execution": {"zero_stage": "Auto"}}, "zero_stage = 'Auto'", "did you mean 'auto'?"),
        ({"execution": {"zero_stage": None}}, "zero_stage = null: must be one of", "zero_stage: auto"),
        ({"execution": {"zero_stage": True}}, "zero_stage: true must be one of", "zero_stage: auto"),
        ({"execution": {"offload_optimizer": "cpu"}}, "offload_optimizer = 'cpu'", "offload_optimizer: true"),
        ({"execution": {"attention": "eager"}}, "attention = 'eager': must be one of", "for example attention: "),
        ({"optimisation": {"saved_precision": "fp16"}}, "saved_precision = 'fp16'", "did you mean 'bf16'?"),
        ({"execution": {"nvme_folder": 5}}, "nvme_folder = 5: must be a path", "nvme_folder: /"),
        ({"search": {"space": {"optimisation.rate": [1]}}}, "ladder.s.optimisation.rate", "known keys here"),
        ({"search": {"space": {"splits.train_examples": {"low": 1, "hgh": 2}}}}, "train_examples.hgh", "'high'"),
    ],
)
def test_an_invalid_value_is_named_with_its_key_and_rule(changes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(StudyError) as refused:
        parse_study(study(**changes))
    assert message in refused.value.message and hint in refused.value.hint


def test_a_shared_fault_in_a_study_whose_levels_are_numbers_is_named() -> None:
    with pytest.raises(StudyError, match="zero_stage"):
        parse_study(study(ladder={125: "w2s:small", 350: "w2s:small"}, execution={"zero_stage": 7}))


def test_a_fault_in_a_value_for_every_level_is_reported_once_at_the_top() -> None:
    own = {"model": "w2s:small", "execution": {"zero_stage": 7}}
    for ladder, places in (
        ({"s": "w2s:small", "m": "w2s:small", "l": {"model": "w2s:small", "execution": {"workers": 2}}}, ["execution"]),
        ({"s": "w2s:small", "l": own}, ["execution", "ladder.l.execution"]),
    ):
        with pytest.raises(StudyError) as refused:
            parse_study(study(ladder=ladder, execution={"zero_stage": 4}), source="file")
        sentences = refused.value.message.removeprefix("file: ").split("; ")
        assert [sentence.partition(".zero_stage")[0] for sentence in sentences] == places


@pytest.mark.parametrize(("folder", "whole"), [("relative/x", "/work/relative/x"), ("~/x", "/home/me/x")])
def test_a_relative_folder_is_refused_with_the_whole_path(
    folder: str, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr("os.getcwd", lambda: "/work")
    with pytest.raises(StudyError) as refused:
        parse_study(study(execution={"nvme_folder": folder, "zero_stage": "auto"}))
    assert refused.value.message.count(folder) == 1 and refused.value.hint == f"write {whole}"


def test_a_missing_study_file_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: a\n")
    for name, hint in (
        ("studi.yaml", "did you mean 'study.yaml'?"),
        ("none/study.yaml", "check the path"),
        (".", "in it"),
    ):
        with pytest.raises(StudyError) as refused:
            load_study(tmp_path / name)
        assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ladder.x.optimisation.epochs=2", "unknown key: ladder.x"),
        ("tasks.x.train_examples=2", "unknown key: tasks.x"),
        ("seeds", "--set seeds must be"),
        ("name.x=2", "--set name.x"),
        ("seeds=[", "--set seeds=["),
    ],
)
def test_an_invalid_override_is_refused(override: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study()))
    with pytest.raises(StudyError) as refused:
        load_study(file, [override])
    assert message in refused.value.message


def test_an_override_can_add_a_level(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study(), sort_keys=False))
    assert list(load_study(file, ["ladder.x.model=w2s:large"]).ladder) == ["s", "l", "x"]


@pytest.mark.parametrize(
    ("method", "hint"),
    [
        ({"losses": {"kind": "confidence"}}, "losses: {<level>: {kind: confidence}}"),
        ({"losses": {"kind": "confidence", "alpha_max": 0.3}}, "losses: {<level>: {alpha_max: 0.3}}"),
        ({"trainable": {"kind": "lora", "rank": 4}}, "trainable: {<level>: {kind: lora}}"),
        ({"labels": {"transforms": []}}, "labels: {<level>: {transforms: []}}"),
        ({"optimisation": {"learning_rate": 0.001}}, "optimisation: {<level>: {learning_rate: 0.001}}"),
        ({"generative": {"epochs": 2}}, "generative: {<level>: {epochs: 2}}"),
    ],
)
def test_a_value_that_misses_the_name_of_its_level_is_told_where_it_belongs(method: dict[str, Any], hint: str) -> None:
    with pytest.raises(StudyError) as refused:
        parse_study(study(methods={"x": method}))
    assert "named by level" in refused.value.message and hint in refused.value.hint


def test_paths_in_an_override_are_relative_to_where_the_command_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        (folder / "model").mkdir(parents=True)
        (folder / "rows.jsonl").touch()
    (home / "only.jsonl").touch()
    own = {"files": "rows.jsonl", "text": "text", "label": "label"}
    (home / "study.yaml").write_text(yaml.safe_dump(study(tasks={"t": own})))
    monkeypatch.chdir(here)

    def read(*overrides: str) -> tuple[str | None, str]:
        found = load_study("../home/study.yaml", overrides)
        return found.tasks["t"].files, found.ladder["l"].model

    rows = str(here / "rows.jsonl")
    assert read() == (str(home / "rows.jsonl"), "w2s:large")
    assert read("tasks.t.files=rows.jsonl", "ladder.l.model=model") == (rows, str(here / "model"))
    assert read("tasks.t={files: rows.jsonl, text: text, label: label}", "ladder.l=model") == (
        rows,
        str(here / "model"),
    )
    assert read("tasks.t.files=only.jsonl", "ladder.l.model=w2s:medium") == (str(home / "only.jsonl"), "w2s:medium")
    assert read("tasks.t.files=none.jsonl") == (str(here / "none.jsonl"), "w2s:large"), "so the error names the place"
    assert read(f"tasks.t.files={home}/rows.jsonl")[0] == str(home / "rows.jsonl")
