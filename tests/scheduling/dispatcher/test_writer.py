"""The writer's last words on a chain."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.scheduling.studies import chains_of, small_study
from w2s_ray.scheduling.dispatcher.writer import ChainJudge, Writer
from w2s_ray.spec.chain import Chain
from w2s_ray.tracking.jsonl import JsonLinesTracker
from w2s_ray.tracking.tracker import chain_run


def judged(chain: Chain) -> Mapping[str, float]:
    return {"chain/l/accuracy": 0.75}


def broken(chain: Chain) -> Mapping[str, float]:
    raise OSError("the store is gone")


@pytest.mark.parametrize("is_known", [True, False], ids=["", "started anew"])
@pytest.mark.parametrize(
    ("judge", "summary"),
    [
        (judged, {"floor/s/num_steps": 7.0, "chain/l/accuracy": 0.75}),
        (broken, {"floor/s/num_steps": 7.0}),
        (None, {"floor/s/num_steps": 7.0}),
    ],
)
def test_a_chains_summary_tells_its_stages_metrics_and_what_came_of_it(
    tmp_path: Path, judge: ChainJudge | None, summary: dict[str, float], is_known: bool
) -> None:
    writer = Writer(lambda say: JsonLinesTracker(tmp_path), judge)
    chain = chains_of(small_study())[0]
    if is_known:
        writer.begin(chain_run(chain))
    writer.finish_chain(chain, {"floor/s/num_steps": 7.0}, ended_well=True)
    lines = [json.loads(line) for line in (tmp_path / f"{chain_run(chain).run_id}.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["run", "summary"]
    assert lines[-1]["values"] == summary
