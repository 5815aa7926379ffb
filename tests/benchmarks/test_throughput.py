"""The throughput benchmark measures both sides; their speed is not asserted."""

import json
import subprocess
import sys

from tests.cli.conftest import ROOT, environment


def test_both_sides_are_measured_over_the_same_batches() -> None:
    arguments = ["w2s:small", "--pairs", "3", "--steps", "2", "--threads", "1", "--json"]
    script = [sys.executable, "benchmarks/throughput.py", *arguments]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert result["pairs"] == 3 and result["model"] == "w2s:small"
    assert result["lowest_ratio"] <= result["median_ratio"] <= result["highest_ratio"]
    assert result["ours_tokens_per_second"] > 0 and result["bare_tokens_per_second"] > 0
