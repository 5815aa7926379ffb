"""Data and models of the studies that are planned."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study
from w2s_ray.training.models.catalogue import LADDER

NUM_PARAMETERS = 1000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Data, and models that are nothing but their size."""
    rows = [{"text": f"sentence number {number}", "label": "ab"[number % 2]} for number in range(600)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for place, name in enumerate(("s", "m", "l"), start=1):
        shutil.copytree(LADDER / "tokenizer", tmp_path / name)
        (tmp_path / name / "config.json").write_text("{}")
        save_file({"w": np.zeros(NUM_PARAMETERS * place, np.float16)}, tmp_path / name / "model.safetensors")
    return tmp_path


def study_in(home: Path, **changes: Any) -> Study:
    raw: dict[str, Any] = {
        "name": "planned",
        "tasks": {"rows": {"files": str(home / "rows.jsonl"), "text": "text", "label": "label"}},
        "ladder": {
            "s": {"model": str(home / "s")},
            "m": {"model": str(home / "m"), "execution": {"zero_stage": 2, "workers": 2}},
            "l": {"model": str(home / "l"), "execution": {"zero_stage": 3, "workers": 2}},
        },
        "methods": {"naive": {"arms": ["chain", "ceiling"]}, "half": {"losses": {"l": {"kind": "confidence"}}}},
        "splits": {"train_examples": 64, "validation_examples": 16},
    }
    return parse_study({**raw, **changes})
