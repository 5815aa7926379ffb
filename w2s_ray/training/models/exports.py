"""Exports of stages that an earlier version trained: their files may not say how the stage read its texts.

Earlier versions kept the special tokens that a decoder's tokenizer adds after a text, and `problem_type`. Loads
transformers only for such a tokenizer.
"""

import json
from pathlib import Path
from typing import Any

from w2s_ray.spec.stage import StageSpec
from w2s_ray.training.models.files import CONFIG, fast_tokenizer

READ = ("input_ids", "attention_mask")
"""Outputs of a tokenizer that a stage's model reads; others, such as segments, would change what an export predicts."""
HOW_TO_READ = ("problem_type", "function_to_apply")
"""Keys of a configuration that tell `pipeline()` to read logits otherwise than as classes."""


def renew_export(folder: Path, spec: StageSpec) -> None:
    """Change the files of an export that predict otherwise than its stage."""
    if not spec.is_language_model:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if any(config.get(name) is not None for name in HOW_TO_READ):
            _write(folder / CONFIG, {key: value for key, value in config.items() if key not in HOW_TO_READ})
    tokenizer = fast_tokenizer(folder)
    if tokenizer is None or spec.objective == "next_token":
        return
    if tokenizer.encode("a").special_tokens_mask[-1]:
        from w2s_ray.data.tokens import read_around
        from w2s_ray.training.models.loading import load_tokenizer
        from w2s_ray.training.models.saving import exported_tokenizer

        own = load_tokenizer(folder, None, trust_remote_code=spec.trusts_code)
        around = read_around(own, is_language_model=spec.is_language_model)
        exported_tokenizer(own, *around, spec).save_pretrained(folder)
    read_only_ids(folder)


def read_only_ids(folder: Path) -> None:
    """Let the tokenizer in `folder` give what a stage's model reads."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if settings.get("model_input_names") != list(READ):
        _write(path, settings | {"model_input_names": list(READ)})


def write_labels(folder: Path, labels: dict[int, str]) -> None:
    """Write the labels of a classifier into its configuration: where there are two, some types (BART) assume three."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    is_classifier = any("SequenceClassification" in name for name in config.get("architectures") or ())
    if is_classifier and "id2label" not in config:
        names = {label: number for number, label in labels.items()}
        _write(folder / CONFIG, config | {"id2label": labels, "label2id": names})


def write_precision(folder: Path, dtype: str) -> None:
    """Write the precision of the files of weights, which `from_pretrained` loads them in, into the configuration."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config.get("dtype") != dtype:
        _write(folder / CONFIG, config | {"dtype": dtype})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
