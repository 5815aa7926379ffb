"""The benchmark measures what it says; how fast is asserted nowhere."""

import json
import subprocess
import sys


def test_both_sides_are_measured_over_the_same_batches() -> None:
    script = (
        "from w2s_ray.bench.throughput import bench_throughput;"
        "[found] = bench_throughput(['w2s:small'], pairs=3, steps=2, threads=1);"
        "print(found.model_dump_json())"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120).stdout
    found = json.loads(out.splitlines()[-1])
    assert found["pairs"] == 3 and found["model"] == "w2s:small"
    assert found["lowest_ratio"] <= found["median_ratio"] <= found["highest_ratio"]
    assert found["ours_tokens_per_second"] > 0 and found["bare_tokens_per_second"] > 0
