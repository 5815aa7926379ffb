"""`w2s submit`: a study as a job of a Ray cluster, through Ray's job API.

The job's working folder holds the study file and the local data and models that it names by relative paths; absolute
paths are taken to be the cluster's own. The job runs `w2s run` there, so the cluster's machines need w2s_ray installed.
"""

import asyncio
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from w2s_ray.cli.amounts import bytes_text
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import DataError, ResourceError, StoreError, first_line
from w2s_ray.scheduling.session import passed_on
from w2s_ray.spec.load import STUDY_NAME, load_study, read_raw

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MAX_TRAVEL_BYTES = 100 * 2**20
"""What may travel with a job; Ray refuses more."""


class ConnectionLost(ResourceError):
    """The cluster went away under a job that was being followed."""

    exit_code = 1


def submit(
    path: Path, address: str, store: str, overrides: Sequence[str], *, wait: bool, retry_failed: bool, yes: bool
) -> int:
    """Submit the study; with `wait` print the job's lines until it ends. Return the exit code.

    Raises:
        StoreError: when the store is not named by an absolute path.
        ResourceError: when the cluster cannot be reached.
    """
    if not Path(store).is_absolute():
        raise StoreError(
            f"--store {store}",
            "a job works in a folder of Ray's own, so its store is named by an absolute path that every node sees",
            "name a shared folder, for example --store /shared/w2s-store",
        )
    study = load_study(path, overrides)  # what is wrong with it is better said here than on the cluster
    with tempfile.TemporaryDirectory(prefix="w2s-submit-") as folder:
        pack(path, Path(folder), overrides)
        terminal.capture(Path(tempfile.mkdtemp(prefix="w2s-")) / "submit.log")
        client = _client(address)
        job = _submit(client, entrypoint(store, retry_failed=retry_failed, yes=yes), folder, study.name)
    terminal.out.print(f"submitted {job} to {address}", markup=False)
    if not wait:
        terminal.out.print(
            f"  follow it: ray job logs --address {address} --follow {job}", markup=False, soft_wrap=True
        )
        return 0
    try:
        asyncio.run(_follow(client, job))
        status = client.get_job_status(job)
    except (OSError, RuntimeError) as error:
        lost = f"lost the connection to {address}: {first_line(error)}"
        remedy = f"follow it again: ray job logs --address {address} --follow {job}"
        raise ConnectionLost(lost, "the job goes on without us", remedy) from None
    except KeyboardInterrupt:
        terminal.out.print(
            f"job {job} goes on; end it: ray job stop --address {address} {job}", markup=False, soft_wrap=True
        )
        return 130
    terminal.out.print(f"job {job}: {status.value.lower()}", markup=False)
    return 0 if status.value == "SUCCEEDED" else 1


def entrypoint(store: str, *, retry_failed: bool, yes: bool) -> str:
    """Return the command that the job runs."""
    words = ["w2s", "run", STUDY_NAME, "--store", store, "--address", "auto"]
    given = {"--retry-failed": retry_failed, "--yes": yes}
    return shlex.join([*words, *(word for word, wished in given.items() if wished)])


def pack(path: Path, folder: Path, overrides: Sequence[str] = ()) -> None:
    """Put the study file with its overrides, and what it then names by relative paths, into `folder`.

    Raises:
        DataError: when that is too large to travel with a job.
    """
    raw, home = read_raw(path, overrides), path.resolve().parent
    for name, task in raw["tasks"].items():
        for key in ("files", "test_files"):
            _take(task, key, home, folder, f"data/{name}")
    for name, level in raw["ladder"].items():
        if isinstance(level, str):
            level = raw["ladder"][name] = {"model": level}
        _take(level, "model", home, folder, f"models/{name}")
    (folder / STUDY_NAME).write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MAX_TRAVEL_BYTES:
        raise DataError(
            f"the study's local files hold {bytes_text(size)}",
            f"at most {bytes_text(MAX_TRAVEL_BYTES)} travel with a job",
            "put them where every node of the cluster sees them and name them by absolute paths",
        )


def _take(entry: dict[str, Any], key: str, home: Path, folder: Path, place: str) -> None:
    """Copy the file or folder that `entry[key]` names by a relative path, and name the copy instead."""
    value = entry.get(key)
    if not isinstance(value, str) or Path(value).is_absolute() or not (home / value).exists():
        return
    source = Path(os.path.abspath(home / value))  # `..` has a name then, and a link keeps its own
    target = folder / place / key / source.name
    target.parent.mkdir(parents=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)
    entry[key] = str(target.relative_to(folder))


def _client(address: str) -> "JobSubmissionClient":
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        if "://" not in address:  # Ray would take it for its own port, and wait for an answer there
            raise ValueError("the address of a dashboard begins with http://")
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = first_line(error)
        raise ResourceError(
            f"no Ray dashboard answers at {address}: {reason}",
            "submit talks to the cluster's dashboard, http://HOST:8265",
            "check the address; a dashboard on another machine needs a tunnel (ssh -L 8265:localhost:8265 HOST), and a "
            "cluster with token authentication needs RAY_AUTH_MODE=token and the token",
        ) from None


def _submit(client: "JobSubmissionClient", command: str, folder: str, study: str) -> str:
    runtime_env = {"working_dir": folder, "env_vars": passed_on()}
    try:
        return str(client.submit_job(entrypoint=command, runtime_env=runtime_env, metadata={"study": study}))
    except RuntimeError as error:
        raise ResourceError(
            f"the cluster does not take the job: {first_line(error)}",
            "a job is taken by the dashboard agent of a node",
            "try again once the nodes are up; several nodes on one machine need a --dashboard-agent-listen-port each",
        ) from None


async def _follow(client: "JobSubmissionClient", job: str) -> None:
    """Print the job's own lines as they come, without the control sequences of a live terminal."""
    async for text in client.tail_job_logs(job):
        terminal.out.print(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text), end="", markup=False, soft_wrap=True)
