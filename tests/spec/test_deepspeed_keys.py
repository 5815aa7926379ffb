"""Raw keys of DeepSpeed: which may be given, what is refused and with which remedy, and how they are kept."""

from typing import Any

import pytest

from w2s_ray.errors import StudyError
from w2s_ray.spec.deepspeed_keys import ALLOWED, refusal
from w2s_ray.spec.execution import ExecutionSpec
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study

PREFETCH = {"zero_optimization": {"stage3_prefetch_bucket_size": 5_000, "overlap_comm": True}}


def study_with(deepspeed: Any, **level: Any) -> Study:
    return parse_study(
        {
            "name": "raw",
            "tasks": {"t": {"builtin": "code_continuation"}},
            "ladder": {"a": "w2s:small", "b": {"model": "w2s:large", **level}},
            "execution": {"deepspeed": deepspeed},
        }
    )


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("gradient_clipping", 0.5, "optimisation.max_grad_norm"),
        ("train_batch_size", 64, "optimisation.examples_per_step"),
        ("train_micro_batch_size_per_gpu", 4, "execution.tokens_per_micro_batch"),
        ("fp16", {"enabled": True}, "remove fp16"),
        ("tensorboard", {"enabled": True}, "remove tensorboard"),
        ("zero_optimization", {"offload_param": {"device": "nvme", "nvme_path": "/x"}}, "execution.nvme_folder"),
        ("zero_optimization", {"offload_optimizer": True}, "execution.offload_optimizer"),
        ("zero_optimization", {"offload_param": "cpu"}, "execution.offload_parameters"),
        ("bf16", {"enabled": True}, "optimisation.precision"),
        ("optimizer", {"type": "Adam", "params": {"lr": 1e-3}}, "optimisation.learning_rate"),
        ("scheduler", {"type": "WarmupLR"}, "optimisation.warmup_fraction"),
        ("zero_optimization", {"stage": 3}, "execution.zero_stage"),
        ("zero_optimization", {"offload_optimizer": {"device": "cpu"}}, "execution.offload_optimizer"),
        ("zero_optimization", {"zero_quantized_weights": True}, "remove zero_optimization.zero_quantized_weights"),
        ("checkpoint", {"load_universal": True}, "execution.checkpoint_every_seconds"),
    ],
)
def test_a_key_that_is_ours_is_refused_with_our_own(key: str, value: Any, remedy: str) -> None:
    with pytest.raises(StudyError) as refused:
        study_with({key: value})
    assert key in refused.value.message and "execution.deepspeed" in refused.value.message
    assert remedy in refused.value.hint
    assert refused.value.exit_code == 2


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(StudyError) as refused:
        study_with({"zero_optimization": {"overlap_com": True}})
    assert "zero_optimization.overlap_com = true" in refused.value.message
    assert "zero_optimization.overlap_comm" in refused.value.hint


@pytest.mark.parametrize(
    ("section", "value", "remedy"),
    [
        ({"sub_group_size": 0}, "0", "at least 1"),
        ({"sub_group_size": 1.5}, "1.5", "whole number"),
        ({"sub_group_size": "1.5e0"}, "'1.5e0'", "whole number"),
        ({"sub_group_size": "5000"}, "'5000'", "whole number"),
        ({"overlap_comm": "yes"}, "'yes'", "true or false"),
        ({"stage3_max_live_parameters": True}, "true", "at least 0"),
        ({"overlap_comm": {}}, "{}", "true or false"),
        (True, "true", "stage3_prefetch_bucket_size"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(section: Any, value: str, remedy: str) -> None:
    with pytest.raises(StudyError) as refused:
        study_with({"zero_optimization": section})
    assert f"= {value} must" in refused.value.message and remedy in refused.value.hint


@pytest.mark.parametrize("written", [5e8, "5e8", "5.0E+8", 500_000_000])
def test_a_whole_number_may_have_an_exponent(written: Any) -> None:
    raw = {"zero_optimization": {"reduce_bucket_size": written}}
    ((_, value),) = ExecutionSpec(deepspeed=raw).deepspeed
    assert value == 500_000_000 and isinstance(value, int)


def test_an_empty_section_has_no_keys() -> None:
    assert ExecutionSpec(deepspeed={"zero_optimization": {}}).deepspeed == ()


@pytest.mark.parametrize("raw", [3, "ds.json", ["overlap_comm"], None])
def test_what_is_not_a_mapping_is_refused(raw: Any) -> None:
    with pytest.raises(StudyError) as refused:
        study_with(raw)
    assert "must be a mapping" in refused.value.message and "deepspeed: {" in refused.value.hint


@pytest.mark.parametrize("value", [{"enabled": True}, False, None])
def test_a_refused_value_is_shown_in_yaml(value: Any) -> None:
    with pytest.raises(StudyError) as refused:
        study_with({"fp16": value})
    assert not [word for word in ("True", "False", "None", "{'") if word in refused.value.message]


def test_a_level_adds_its_keys_to_those_at_the_top() -> None:
    own = {"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True}
    study = study_with(PREFETCH, execution={"deepspeed": own})
    assert study.ladder["a"].execution.deepspeed == (
        ("zero_optimization.overlap_comm", True),
        ("zero_optimization.stage3_prefetch_bucket_size", 5_000),
    )
    assert study.ladder["b"].execution.deepspeed == (
        ("wall_clock_breakdown", True),
        ("zero_optimization.overlap_comm", False),
        ("zero_optimization.stage3_prefetch_bucket_size", 5_000),
    )


def test_settings_can_be_hashed_and_are_dumped_as_the_mapping_that_they_were() -> None:
    execution = ExecutionSpec(deepspeed=PREFETCH)
    assert hash(execution) == hash(ExecutionSpec(deepspeed=dict(reversed(PREFETCH.items()))))
    assert execution.model_dump()["deepspeed"] == PREFETCH
    assert ExecutionSpec.model_validate_json(execution.model_dump_json()) == execution
    assert ExecutionSpec.model_validate(execution.model_dump()) == execution
    assert ExecutionSpec().model_dump()["deepspeed"] == {}


def test_identities_do_not_depend_on_them() -> None:
    from tests.planning.test_memory import student

    plain, _ = student()
    raw, _ = student(deepspeed=PREFETCH)
    assert plain.identity == raw.identity and raw.execution.deepspeed


def test_every_key_of_deepspeeds_zero_configuration_is_decided() -> None:
    from deepspeed.runtime.zero import offload_config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    sections = {
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.offload_optimizer": offload_config.DeepSpeedZeroOffloadOptimizerConfig,
        "zero_optimization.offload_param": offload_config.DeepSpeedZeroOffloadParamConfig,
    }
    keys = {
        f"{above}.{field.alias or name}"
        for above, kind in sections.items()
        for name, field in kind.model_fields.items()
    }
    keys -= set(sections)
    assert not [key for key in keys if key not in ALLOWED and refusal(key) is None]
    assert not [key for key in ALLOWED if key.startswith("zero_optimization") and key not in keys]
    assert not [key for key in ALLOWED if refusal(key) is not None]
