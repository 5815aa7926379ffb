from typing import Any

import pytest

from w2s_ray.errors import StoreError
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.search import Candidate, Point, SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.run_status import read_run_status
from w2s_ray.store.search_result import (
    FAILURES_NAME,
    SEARCH_RESULT_NAME,
    read_failures,
    read_search_result,
    search_digest,
    write_search_result,
)

RATE = "ladder.l.optimisation.learning_rate"
POINT = Point.of({RATE: 1e-3})
FOUND = SearchResult(candidates=(Candidate(point=POINT, status="done", score=0.5),), winners=(POINT,))


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


def test_a_search_result_does_not_depend_on_the_paths_of_files(store: ArtifactStore) -> None:
    write_search_result(FOUND, study_at("/here"), store)
    assert read_search_result(study_at("/there"), store) == FOUND


def test_the_search_result_of_another_model_is_not_used(store: ArtifactStore) -> None:
    write_search_result(FOUND, study_at("/here"), store)
    assert read_search_result(study_at("/here", ladder={"s": "/here/models/other", "l": "owner/model"}), store) is None


def test_a_former_version_of_a_study_has_the_digest_of_its_search() -> None:
    study = study_at("/here")
    former = study.model_copy(update={"name": f"{study.name}/versions/1"})
    assert search_digest(former) == search_digest(study)


def test_a_search_result_does_not_depend_on_execution(store: ArtifactStore) -> None:
    write_search_result(FOUND, study_at("/here"), store)
    assert (
        read_search_result(study_at("/here", execution={"workers": 2, "tokens_per_micro_batch": 512}), store) == FOUND
    )
    assert search_digest(study_at("/here", optimisation={"epochs": 3})) != search_digest(study_at("/here"))


def test_keys_that_came_later_do_not_change_the_digest_of_a_search() -> None:
    assert search_digest(study_at("/here")).startswith("a530915f2530")
    timed = {"space": {RATE: [1e-3, 1e-4]}, "choose_by": "agreement", "minimise": "train_seconds", "sampler": "tpe"}
    with_execution = study_at("/here", search={**timed, "num_samples": 4})
    assert search_digest(with_execution).startswith("2dae7e41ec74")
    task = {"files": ["/here/a.jsonl", "/here/*.csv"], "text": "text", "label": "label"}
    digests = [
        study_at("/here", tasks={"t": {**task, **keys}}) for keys in ({}, {"quoting": True}, {"labels": {"a": "A"}})
    ]
    digests.append(study_at("/here", tasks={"t": {**task, "quoting": False}}))
    assert len({search_digest(study) for study in digests}) == 4


def test_files_of_another_version_are_refused_or_ignored(store: ArtifactStore) -> None:
    study = study_at("/here")
    folder = store.study_folder(study.name)
    for name in (SEARCH_RESULT_NAME, FAILURES_NAME, "under-way.json"):
        (folder / name).write_text('{"another": "version"}')
    with pytest.raises(StoreError, match=r"search\.json"):
        read_search_result(study, store)
    with pytest.raises(StoreError, match=r"failures\.json"):
        read_failures(study, store)
    assert read_run_status(study, store) is None
