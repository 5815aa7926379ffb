"""Files in a study's folder with the result of its search and the failures of its last run."""

from pathlib import Path
from typing import Any

from pydantic import Field

from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, Resolution
from w2s_ray.spec.compile import CandidateCompiler, compile_study
from w2s_ray.spec.identity import identity
from w2s_ray.spec.search import SearchResult
from w2s_ray.spec.stage import is_path
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import write_file
from w2s_ray.store.record import read_spec

SEARCH_RESULT_NAME = "search.json"
FAILURES_NAME = "failures.json"


class Failures(Spec):
    """What failed in a study's last run; empty while a run is under way."""

    chains: dict[str, str] = Field(default_factory=dict)
    """Errors by the chain's name, with its searched values."""
    stages: dict[str, str] = Field(default_factory=dict)
    """Errors by identity, without the stages whose supervisor failed."""


class _Kept(Spec):
    digest: str
    """Digest of the search that it belongs to."""
    found: SearchResult


def read_search_result(study: Study, store: ArtifactStore) -> SearchResult | None:
    """Return the result of the study's search; None without a search, or before it has ended, or after it changed."""
    path = store.study_folder(study.name) / SEARCH_RESULT_NAME
    kept = None if study.search is None else read_spec(path, _Kept, _hint(path))
    return kept.found if kept is not None and kept.digest == search_digest(study) else None


def write_search_result(result: SearchResult, study: Study, store: ArtifactStore) -> None:
    """Write the result of the study's search."""
    kept = _Kept(digest=search_digest(study), found=result)
    write_file(store.study_folder(study.name) / SEARCH_RESULT_NAME, kept.model_dump_json(indent=1).encode())


def _hint(path: Path) -> str:
    return f"remove {path} and run the study again; stages in the store are not trained again"


_LATER_KEYS: dict[str, Any] = {
    "quoting": None,
    "labels": None,
    "trust_remote_code": False,
    "prediction_precision": "fp32",
    "saved_precision": "fp32",
    "keep_adapters": False,
    "attention": "auto",
    "offload_parameters": False,
    "nvme_folder": None,
    "deepspeed": {},
}
"""Keys of a study that came after searches had been stored, with the default at which no digest has them.
`later_fields` has older ones too, which the digests of stored searches contain."""


def search_digest(study: Study) -> str:
    """Return a digest of everything that decides a search's result, without the paths of files and the execution."""
    keys = study.model_dump(mode="json", exclude={"tracking", "report", "max_concurrent"})
    keys["name"] = study.name.partition("/")[0]  # a former version is named by its folder
    for level in keys["ladder"].values():
        level["model"] = Path(level["model"]).name if is_path(level["model"]) else level["model"]
        if study.search is None or study.search.minimise != "train_seconds":
            del level["execution"]
    for task in keys["tasks"].values():
        for key in (key for key in ("files", "test_files") if task[key]):
            paths = task[key]
            task[key] = Path(paths).name if isinstance(paths, str) else [Path(path).name for path in paths]
    if study.search is not None and study.search.choose_by is not None:
        keys.pop("seeds")
    return identity("search", _without_later_keys(keys))


def _without_later_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_later_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = ((key, item) for key, item in value.items() if key not in _LATER_KEYS or item != _LATER_KEYS[key])
    return {key: _without_later_keys(item) for key, item in kept}


def read_failures(study: Study, store: ArtifactStore) -> Failures:
    """Return what failed in the study's last run."""
    path = store.root / "studies" / study.name / FAILURES_NAME
    return read_spec(path, Failures, _hint(path)) or Failures()


def write_failures(failures: Failures, study: Study, store: ArtifactStore) -> None:
    """Write what failed in the run that has just ended, or that nothing did."""
    write_file(store.study_folder(study.name) / FAILURES_NAME, failures.model_dump_json(indent=1).encode())


def every_chain(study: Study, resolution: Resolution, store: ArtifactStore) -> tuple[Chain, ...]:
    """Return the chains of the study that exist so far, including those of the search's candidates.

    Candidates are the points that the search lists, or those that it has judged.

    Raises:
        StudyError: when values that the search combines do not fit together.
    """
    search, result = study.search, read_search_result(study, store)
    if search is None or search.choose_by is None:
        return compile_study(study, resolution)
    points = search.points() if search.is_listed else ()
    points += tuple(candidate.point for candidate in result.candidates) if result is not None else ()
    compiler = CandidateCompiler(study, resolution)
    of_candidates = (chain for point in dict.fromkeys(points) for chain in compiler.chains(point))
    return (*of_candidates, *compile_study(study, resolution, result))
