"""The throughput benchmark measures every side; their speed is not asserted."""

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT, environment


@pytest.mark.soak
def test_every_side_is_measured_over_the_same_examples() -> None:
    arguments = ["--model", "w2s:small", "--rounds", "2", "--steps", "2", "--text", "sst2", "--precision", "fp32"]
    script = [sys.executable, "benchmarks/throughput.py", *arguments, "--json"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert result["rounds"] == 2 and result["text"] == "sst2" and result["tokens_per_second"] > 0
    assert set(result["ratios"]) == {"bare loop", "Trainer", "labelling"}
    assert all(0 < lowest <= median <= highest for median, lowest, highest in result["ratios"].values())
