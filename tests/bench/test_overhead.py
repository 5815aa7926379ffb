"""The benchmark of a crew's overhead tells every stage, its memory and the cold start; how much is asserted nowhere."""

import json

import pytest

from tests.cli.conftest import w2s

pytestmark = pytest.mark.soak


def test_every_stage_has_its_time_and_memory() -> None:
    done = w2s("bench", "overhead", "--json", seconds=400)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert len(found["stages"]) == 12
    for stage in found["stages"]:
        assert stage["in_hand_seconds"] >= stage["busy_seconds"] > 0 and stage["memory_bytes"] > 0
    assert found["cold_start_seconds"] > 0 and found["memory_growth"] > 0
