"""The model card of an exported model: what it was trained from, on and for, in the format of the Hugging Face hub."""

from collections.abc import Iterator

import yaml

from w2s_ray.spec.chain import PlannedStage, ResolvedTask
from w2s_ray.spec.identity import short
from w2s_ray.spec.stage import ModelSource, is_path
from w2s_ray.spec.study import Study
from w2s_ray.store.record import Record
from w2s_ray.training.models.catalogue import is_on_hub

_LABELS = {
    "chain": "predicted by the level before it",
    "direct": "predicted by the first level",
    "truth_chain": "predicted by a model one level below that learned the ground truth",
    "self": "predicted by the first level, of the same model",
    "pooled": "predicted by the first level, for the examples of all levels up to this one",
}


def model_card(study: Study, stage: PlannedStage, task: ResolvedTask, record: Record, at: float | None = None) -> str:
    """Return the card; `at` is the share of training after which a snapshot was kept."""
    head = {key: value for key, value in _metadata(stage).items() if value}
    model = stage.spec.starts_from.name
    lines = [
        f"# {stage.level} of the study {study.name}, arm {stage.arm}",
        "",
        f"A fine-tuned {_shown(model)} from a study of weak-to-strong generalization (Burns et al. 2023) with w2s_ray. "
        "It is meant for research: its labels may be wrong on purpose, and no other use was tested.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in _facts(stage, task, record, at)),
    ]
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _metadata(stage: PlannedStage) -> dict[str, object]:
    model, is_language_model = stage.spec.starts_from.name, stage.spec.is_language_model
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if is_language_model else "text-classification",
        "base_model": model if is_on_hub(model) else None,
        "tags": ["w2s_ray", "weak-to-strong-generalization"],
    }


def _facts(stage: PlannedStage, task: ResolvedTask, record: Record, at: float | None) -> Iterator[tuple[str, str]]:
    spec, settings = stage.spec, stage.spec.optimisation
    revision = f", revision {spec.starts_from.revision}" if isinstance(spec.starts_from, ModelSource) else ""
    yield "model", f"{_shown(spec.starts_from.name)}{revision}"
    yield "task", f"{stage.task} ({task.kind})"
    if task.kind == "classes":
        yield "classes", ", ".join(task.class_names)
    yield "labels", _LABELS.get(stage.arm, "ground truth") if spec.objective != "next_token" else "none: text alone"
    yield "training", f"{spec.description}; {sum(part.split.num_examples for part in spec.train):,} examples"
    steps = f"{record.metrics.get('num_steps', 0):,.0f} steps of {settings.examples_per_step} examples"
    yield "steps", steps if at is None else f"{steps}; this is the snapshot after {at:g} of them"
    yield "learning rate", f"{settings.learning_rate:g}"
    yield "context", f"{settings.context_tokens} tokens"
    yield "identity", f"`{record.identity}` (stage {short(record.identity)})"
    yield "finished", record.finished_at
    yield "versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())


def _shown(model: str) -> str:
    """Return a model's name; of a folder only the last part."""
    return model.rstrip("/").rpartition("/")[2] if is_path(model) else model
