"""A candidate's score, computed from the store."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.scheduling.judged import judged_study, resolved
from w2s_ray.data.prepare import load_prepared
from w2s_ray.data.splits import rows_of_split
from w2s_ray.scheduling.tune.candidates import CandidateJudge
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.search import Point
from w2s_ray.store.artifacts import ArtifactStore

RATE = "ladder.l.optimisation.learning_rate"


@pytest.mark.parametrize(("choose_by", "score"), [("agreement", 0.75), ("oracle", 0.5)])
def test_answers_are_scored_by_agreement_or_by_the_truth(
    store: ArtifactStore, tmp_path: Path, choose_by: str, score: float
) -> None:
    rows = [{"text": f"after {number} comes", "answer": str(number + 1)} for number in range(1500)]
    (tmp_path / "next.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {"files": str(tmp_path / "next.jsonl"), "text": "text", "answer": "answer", "test_examples": 50}
    search = {"space": {RATE: [1e-3, 1e-4]}, "choose_by": choose_by}
    study = judged_study(tmp_path, tasks={"next": task}, search=search)
    judge = CandidateJudge(study, resolved(study, store), store)
    chains = judge.chains(Point.of({RATE: 1e-3}))
    for stage in distinct_stages(chains).values():
        prepared = load_prepared(store, stage.spec.train[0].split.task)
        for prediction in stage.predicts:
            rows_N = rows_of_split(prepared, prediction.split)
            written = prepared.others(rows_N)
            quarter = len(written) // 4
            if stage.arm in ("floor", "chain"):  # the supervisor is wrong on a quarter, its student on another one too
                written[:quarter] = ["wrong"] * quarter
            if stage.arm == "chain":
                written[quarter : 2 * quarter] = ["wrong too"] * quarter
            written = [f"{answer} " for answer in written]
            store.write_answers(prediction, prepared.ids(rows_N), written, np.ones(len(written), dtype=bool))
    assert judge.score(chains) == pytest.approx(score)
    if choose_by == "oracle":
        assert judge.ceilings(chains) == {"l": 1.0}
