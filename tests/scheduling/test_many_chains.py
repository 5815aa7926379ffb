"""A study with hundreds of chains leaves nothing behind."""

import tempfile
from pathlib import Path

import psutil
import pytest

from tests.scheduling.runner import Behaviour, behave
from tests.scheduling.studies import chains_of, small_study
from tests.scheduling.test_run import Watching, run, wait_until, what_is_left
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.store.artifacts import ArtifactStore

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("ray_of_two_cpus")]

LOSSES = {"half": {"losses": {"l": {"kind": "confidence"}}}}
ALPHAS = [round(number / 200, 4) for number in range(200)]


def test_two_hundred_chains_leave_no_actor_placement_group_file_or_handle(store: ArtifactStore) -> None:
    behave(store, all=Behaviour(steps=1, step_seconds=0.0))
    run(small_study(methods={"naive": {}}), store, Watching())  # opens what a process opens once and keeps
    wait_until(lambda: what_is_left() == (0, 0, set()))
    me = psutil.Process()
    handles, temporary = me.num_fds(), set(Path(tempfile.gettempdir()).iterdir())
    study = small_study(
        name="many", methods=LOSSES, search={"space": {"methods.half.losses.l.alpha_max": ALPHAS}}, max_concurrent=8
    )
    outcome = run(study, store, Watching())
    assert outcome.failed == {} and len(outcome.chains) == 200
    stages = distinct_stages(chains_of(study))
    assert len(stages) == 202
    assert [store.num_attempts(identity) for identity in stages] == [1] * 202
    wait_until(lambda: what_is_left() == (0, 0, set()), seconds=30)
    assert what_is_left() == (0, 0, set())
    assert me.num_fds() <= handles + 4
    left = {path for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith("w2s")} - temporary
    assert left == set()
    assert list((store.study_folder("many") / "groups").iterdir()) == []
