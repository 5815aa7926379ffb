"""Small files of own data, and how tests read them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.dataset import DatasetTask
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.task import TaskData

ROWS = [{"text": f"row number {n}", "label": ("bad", "good")[n % 2]} for n in range(40)]
Rows = Sequence[dict[str, Any]]


def opened(files: Path | str | Sequence[str], **spec: Any) -> DatasetTask:
    paths = str(files) if isinstance(files, Path | str) else tuple(files)
    task = open_task(TaskSpec(**{"files": paths, "text": "text", "label": "label", **spec}))
    assert isinstance(task, DatasetTask)
    return task


def read(files: Path | str | Sequence[str], **spec: Any) -> TaskData:
    return opened(files, **spec).read()


def delimited(rows: Rows, delimiter: str = ",") -> str:
    lines = [delimiter.join(rows[0])] + [delimiter.join(map(str, row.values())) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_lines(path: Path, rows: Rows = ROWS) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def texts(data: TaskData, origin: str | None = None) -> list[str]:
    return [row["text"] for row in data.table.to_pylist() if origin in (None, row["origin"])]
