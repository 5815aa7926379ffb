from typing import Any

from w2s_ray.spec.load import parse_study
from w2s_ray.spec.search import Candidate, Found, Point
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.found import read_found, write_found

RATE = "ladder.l.optimisation.learning_rate"
POINT = Point.of({RATE: 1e-3})
FOUND = Found(candidates=(Candidate(point=POINT, status="done", figure=0.5),), winners=(POINT,))


def study_at(folder: str, **changes: Any) -> Study:
    return parse_study(
        {
            "name": "found",
            "tasks": {"t": {"files": f"{folder}/rows.jsonl", "text": "text", "label": "label"}},
            "ladder": {"s": f"{folder}/models/s", "l": "owner/model"},
            "search": {"space": {RATE: [1e-3, 1e-4]}, "choose_by": "agreement"},
            **changes,
        }
    )


def test_what_a_search_came_to_is_known_wherever_its_files_lie(store: ArtifactStore) -> None:
    write_found(FOUND, study_at("/here"), store)
    assert read_found(study_at("/there"), store) == FOUND


def test_what_a_search_of_another_model_came_to_is_not(store: ArtifactStore) -> None:
    write_found(FOUND, study_at("/here"), store)
    assert read_found(study_at("/here", ladder={"s": "/here/models/other", "l": "owner/model"}), store) is None
