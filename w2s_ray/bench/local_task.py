"""A small labelled task in a file of its own, for benchmarks that need real data and no particular one."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_task(folder: Path, texts: Iterable[str], *, test_examples: int) -> dict[str, Any]:
    """Write `texts`, of class 0 and 1 in turn, into `folder`; return what a study says under `tasks:`."""
    path = folder / "moods.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": place % 2}) for place, text in enumerate(texts)))
    return {"moods": {"files": str(path), "text": "text", "label": "label", "test_examples": test_examples}}
