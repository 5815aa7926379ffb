"""The list of built-in tasks."""

import json

from tests.cli.conftest import w2s
from w2s_ray.tasks.nlp import RECIPES

EMBEDDED = {
    "code_continuation",
    "code_continuation_hard",
    "code_continuation_pairs",
    "code_continuation_pairs_hard",
    "code_domain",
    "python_source",
}


def test_every_known_task_is_listed_with_splits_licence_source_and_protocol() -> None:
    done = w2s("tasks")
    assert done.code == 0
    for recipe in RECIPES:
        (line,) = [line for line in done.out.splitlines() if line.startswith(f"{recipe.name} ")]
        for part in (recipe.format.kind, recipe.pool, recipe.licence.split()[0], recipe.hub.partition("/")[0]):
            assert part in line, (part, line)
        assert recipe.protocol.split()[0] in line
    assert all(f"{name} " in done.out for name in EMBEDDED)


def test_json_has_every_field_of_a_task() -> None:
    done = w2s("tasks", "--json")
    listed = {task["name"]: task for task in json.loads(done.out)}
    assert set(listed) >= EMBEDDED | {recipe.name for recipe in RECIPES}
    sst2 = listed["sst2"]
    assert (sst2["pool"], sst2["test"], sst2["num_rows"], sst2["kind"]) == ("train", None, 67_349, "classes")
    assert sst2["class_names"] == ["negative", "positive"] and "Socher" in sst2["citation"]
    assert all(task["licence"] and task["source"] and task["protocol"] for task in listed.values())
