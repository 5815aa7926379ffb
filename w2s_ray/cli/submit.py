"""`w2s submit`: run a study as a job of a Ray cluster, through Ray's job API.

The job's working folder holds the study file, and the local data and models that the study names by relative paths;
absolute paths are paths on the cluster. The job calls `w2s run`, so the cluster's machines need w2s_ray installed.
"""

import asyncio
import glob
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from w2s_ray.cli.terminal import bytes_text, terminal
from w2s_ray.errors import DataError, ResourceError, StoreError, first_line
from w2s_ray.scheduling.session import passed_on
from w2s_ray.spec.load import STUDY_NAME, load_study, read_raw
from w2s_ray.tasks.places import base_of

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MAX_UPLOAD_BYTES = 100 * 2**20
"""Largest working folder of a job; Ray refuses more."""


class ConnectionLost(ResourceError):
    """The connection was lost while a job was followed."""

    exit_code = 1


def submit(
    path: Path,
    address: str,
    store: str,
    overrides: Sequence[str],
    command: str,
    *,
    imports: Sequence[Path],
    wait: bool,
) -> int:
    """Submit the study, for which the job calls `command`; with `wait`, print its output until it ends.

    Returns:
        The exit code.

    Raises:
        StoreError: when the store is not an absolute path.
        ResourceError: when the cluster cannot be reached.
    """
    if not Path(store).is_absolute():
        raise StoreError(
            f"--store {store} is not an absolute path; a job runs in a temporary folder of Ray",
            "choose a folder that every node can reach, for example --store /shared/w2s-store",
        )
    terminal.line(f"store {store} (on the cluster)")
    study = load_study(path, overrides)  # report errors here and not on the cluster
    with tempfile.TemporaryDirectory(prefix="w2s-submit-") as folder:
        pack(path, Path(folder), overrides)
        for file in imports:
            shutil.copy2(file, folder)
        terminal.capture(Path(tempfile.mkdtemp(prefix="w2s-")) / "submit.log")
        client = _client(address)
        job = _submit(client, command, folder, study.name)
    terminal.line(f"submitted {job} to {address}")
    follow = f"follow it with: ray job logs --address {address} --follow {job}"
    if not wait:
        terminal.line(f"  {follow}")
        return 0
    try:
        asyncio.run(_follow(client, job))
        status = client.get_job_status(job)
    except Exception as error:  # of Ray, of its HTTP client or of the network
        lost = f"lost the connection to {address}, but the job goes on: {first_line(error)}"
        raise ConnectionLost(lost, follow) from None
    except KeyboardInterrupt:
        terminal.line(f"job {job} goes on; end it with: ray job stop --address {address} {job}")
        return 130
    terminal.line(f"job {job}: {status.value.lower()}")
    return 0 if status.value == "SUCCEEDED" else 1


def entrypoint(store: str, *, retry_failed: bool, yes: bool, imports: Sequence[Path] = ()) -> str:
    """Return the command that the job runs; files to import are in its working folder."""
    imported = [word for file in imports for word in ("--import", file.name)]
    words = ["w2s", *imported, "run", STUDY_NAME, "--store", store, "--address", "auto"]
    options = {"--retry-failed": retry_failed, "--yes": yes}
    return shlex.join([*words, *(option for option, is_set in options.items() if is_set)])


def pack(path: Path, folder: Path, overrides: Sequence[str] = ()) -> None:
    """Write the study with its overrides to `folder`, and copy the files that it names by relative paths.

    Raises:
        DataError: when the files are too large to upload.
    """
    raw, home = read_raw(path, overrides), path.resolve().parent
    for name, task in raw["tasks"].items():
        for key in ("files", "test_files"):
            if isinstance(task.get(key), list):
                paths = {str(number): value for number, value in enumerate(task[key])}
                for number in paths:
                    _copy(paths, number, home, folder, f"data/{name}/{key}")
                task[key] = list(paths.values())
            else:
                _copy(task, key, home, folder, f"data/{name}")
    for name, level in raw["ladder"].items():
        if isinstance(level, str):
            level = raw["ladder"][name] = {"model": level}
        _copy(level, "model", home, folder, f"models/{name}")
    (folder / STUDY_NAME).write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MAX_UPLOAD_BYTES:
        raise DataError(
            f"the study's local files have {bytes_text(size)}; a job uploads at most {bytes_text(MAX_UPLOAD_BYTES)}",
            "put them in a folder that every node can reach, and name them by absolute paths",
        )


def _copy(entry: dict[str, Any], key: str, home: Path, folder: Path, place: str) -> None:
    """Copy what `entry[key]` names by a relative path or pattern, and replace the path by the copy's."""
    value = entry.get(key)
    if not isinstance(value, str) or Path(value).is_absolute():
        return
    if not (home / value).exists():
        if key != "model":
            entry[key] = _copy_matches(value, home, folder, f"{place}/{key}")
        return
    source = Path(os.path.abspath(home / value))  # resolves `..` but not links, so that a link's own name is kept
    target = folder / place / key / source.name
    target.parent.mkdir(parents=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)
    entry[key] = str(target.relative_to(folder))


def _copy_matches(pattern: str, home: Path, folder: Path, place: str) -> str:
    """Copy the files, or else the folders, that match a pattern; return the pattern for the copies.

    The same text is returned if nothing matches.
    """
    base = base_of(pattern)
    root = Path(os.path.abspath(home / base))
    matches = [Path(match) for match in glob.glob(os.path.abspath(home / pattern), recursive=True)]
    for match in [path for path in matches if path.is_file()] or matches:
        target = folder / place / match.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if match.is_dir():
            shutil.copytree(match, target, dirs_exist_ok=True)
        else:
            shutil.copy2(match, target)
    return f"{place}/{Path(pattern).relative_to(base)}" if matches else pattern


def _client(address: str) -> "JobSubmissionClient":
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        if "://" not in address:  # Ray would connect to its own port and wait there
            raise ValueError("the address of a dashboard begins with http://")
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = first_line(error)
        raise ResourceError(
            f"no Ray dashboard answers at {address}: {reason}",
            "pass the address of the cluster's dashboard, http://HOST:8265; if it is not reachable from here, open a "
            "tunnel (ssh -L 8265:localhost:8265 HOST); a cluster with token authentication needs RAY_AUTH_MODE=token "
            "and the token",
        ) from None


def _submit(client: "JobSubmissionClient", command: str, folder: str, study: str) -> str:
    runtime_env = {"working_dir": folder, "env_vars": passed_on()}
    try:
        return str(client.submit_job(entrypoint=command, runtime_env=runtime_env, metadata={"study": study}))
    except RuntimeError as error:
        raise ResourceError(
            f"the cluster refuses the job: {first_line(error)}",
            "try again when the nodes are up; several nodes on one machine need a --dashboard-agent-listen-port each",
        ) from None


async def _follow(client: "JobSubmissionClient", job: str) -> None:
    """Print the job's output as it arrives, without terminal control sequences."""
    async for text in client.tail_job_logs(job):
        terminal.out.print(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text), end="", markup=False, soft_wrap=True)
