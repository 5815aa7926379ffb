"""A writer is killed with SIGKILL at any moment: committed artifacts are complete, and no others exist."""

import json
import subprocess
import sys
import time

import pytest

from w2s_ray.spec.stage import PredictionSpec, StageSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import RECORD_NAME, check_files

WRITER = """
import itertools, json, os, sys
import numpy as np
from w2s_ray.spec.stage import PredictionSpec, StageSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import digest_files, publish_folder, write_file

store, round_ = ArtifactStore(sys.argv[1]), int(sys.argv[2])
base = json.loads(sys.argv[3])
print("ready", flush=True)
for number in itertools.count(round_ * 1_000_000):
    stage = StageSpec.model_validate(base | {"init_seed": number})
    folder = store.begin("stage", stage.slug, stage.identity)
    (folder / "model").mkdir()
    (folder / "model" / "weights.bin").write_bytes(os.urandom(200_000))
    store.commit(kind="stage", slug=stage.slug, spec=stage, identity=stage.identity, parents=(), metrics={})
    print(stage.identity, flush=True)
    prediction = PredictionSpec(stage=stage.identity, split=stage.train[0].split, context_tokens=8)
    store.write_predictions(prediction, [str(i) for i in range(2000)], np.random.random((2000, 2)))
    print(prediction.identity, flush=True)

    def fill(aside):
        (aside / "examples").write_bytes(os.urandom(200_000))
        write_file(aside / "record.json", json.dumps(digest_files(aside)).encode())

    publish_folder(store.data_folder("toy", stage.identity), fill)
"""


EACH_MOMENT = """
import itertools, json, os, signal, sys
from pathlib import Path
from w2s_ray.spec.stage import StageSpec
from w2s_ray.store.artifacts import ArtifactStore

FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"}
stage = StageSpec.model_validate(json.loads(sys.argv[2]))
WRITES = os.O_WRONLY | os.O_RDWR

def make(store):
    folder = store.begin("stage", stage.slug, stage.identity)
    for name in ("model", "checkpoints"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "part").write_bytes(b"x" * 1000)
    store.commit(kind="stage", slug=stage.slug, spec=stage, identity=stage.identity, parents=(), metrics={})

def die_at(moment):
    left = itertools.count(moment, -1)
    def hook(event, arguments):
        if event not in FILE_EVENTS:
            return
        if event == "open" and str(arguments[0]).endswith("/record.json") and arguments[2] & WRITES:
            os._exit(7)  # the record must not be opened for writing under its final name
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

make(ArtifactStore(Path(sys.argv[1]) / "warm"))
for moment in itertools.count():
    store = ArtifactStore(Path(sys.argv[1]) / str(moment))
    store.prepare()
    child = os.fork()
    if child == 0:
        die_at(moment)
        make(store)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    if store.find(stage.identity) is None:
        assert code != 0
        make(store)
    record = store.find(stage.identity)
    assert set(record.files) == {"model/part"}, record.files
    store.verify(record)
    if code == 0:
        break
print(moment)
"""


def test_a_commit_killed_at_any_file_operation_is_whole_or_absent(store: ArtifactStore, stage: StageSpec) -> None:
    base = json.dumps(stage.model_dump(mode="json"))
    command = [sys.executable, "-c", EACH_MOMENT, str(store.root), base]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


@pytest.mark.parametrize("delay_seconds", [0.0, 0.02, 0.05, 0.113, 0.31])
def test_killed_writers_lose_no_commit_and_leave_nothing_incomplete_readable(
    delay_seconds: float, store: ArtifactStore, stage: StageSpec
) -> None:
    base = json.dumps(stage.model_dump(mode="json"))
    reported: list[str] = []
    for round_ in range(2):
        command = [sys.executable, "-c", WRITER, str(store.root), str(round_), base]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(delay_seconds + 0.007 * round_)
            writer.kill()
            reported += [line.strip() for line in writer.stdout if len(line) == 65]
        by_identity = {record.identity: record for record in store.records()}
        assert set(reported) <= set(by_identity)
        for record in by_identity.values():
            store.verify(record)
            if record.kind == "predictions":
                assert len(store.read_predictions(record.identity).ids) == 2000
        for folder in (store.root / "data").glob("toy-*"):
            check_files(folder, json.loads((folder / RECORD_NAME).read_bytes()))


def test_a_killed_stage_is_restarted_and_finished(
    store: ArtifactStore, stage: StageSpec, prediction: PredictionSpec
) -> None:
    folder = store.begin("stage", stage.slug, stage.identity)
    (folder / "model").mkdir()
    (folder / "model" / "shard-of-another-shape.bin").write_bytes(b"half")
    (folder / ".record.json.tmp-1-abcd").write_text("{")
    again = store.begin("stage", stage.slug, stage.identity)
    (again / "model").mkdir()
    (again / "model" / "weights.bin").write_bytes(b"whole")
    record = store.commit(kind="stage", slug=stage.slug, spec=stage, identity=stage.identity, parents=(), metrics={})
    assert set(record.files) == {"model/weights.bin"}
    assert store.num_attempts(stage.identity) == 2
