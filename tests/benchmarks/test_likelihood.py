"""The benchmark of scored pairs measures all three sides; their speed is not asserted."""

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT, environment


@pytest.mark.soak
def test_all_sides_read_the_same_texts() -> None:
    arguments = ["w2s:small", "--rounds", "2", "--steps", "1", "--json"]
    script = [sys.executable, "benchmarks/likelihood.py", *arguments]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=240)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert set(result["tokens_per_second"]) == {"likelihood", "reward head", "two texts"}
    for median, lowest, highest in result["ratios"].values():
        assert 0 < lowest <= median <= highest
