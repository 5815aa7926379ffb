"""The benchmark measures what it says, for programs too; how fast is asserted nowhere."""

import json

from tests.cli.conftest import w2s


def test_both_sides_are_measured_over_the_same_batches() -> None:
    done = w2s("bench", "throughput", "w2s:small", "--pairs", "3", "--steps", "2", "--threads", "1", "--json")
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)
    assert found["pairs"] == 3 and found["model"] == "w2s:small"
    assert found["lowest_ratio"] <= found["median_ratio"] <= found["highest_ratio"]
    assert found["ours_tokens_per_second"] > 0 and found["bare_tokens_per_second"] > 0
