"""`w2s doctor`: what this machine has, and what a study would miss on it."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from w2s_ray import hub
from w2s_ray.cli.amounts import bytes_text
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import StoreError
from w2s_ray.store.artifacts import FOLDERS, ArtifactStore

_PACKAGES = ("ray", "deepspeed", "torch", "transformers", "datasets", "wandb")
_MIN_MEMORY_BYTES = 6 * 2**30
_MIN_SHM_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Literal["ok", "note", "problem"]
    detail: str


def examine(store_folder: Path, *, as_json: bool) -> int:
    """Print what was found; return 1 where something would stop a study."""
    findings = [finding for check in _CHECKS for finding in check(store_folder)]
    if as_json:
        terminal.out.print(
            json.dumps([asdict(finding) for finding in findings], indent=2), markup=False, soft_wrap=True
        )
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        colours = {"ok": "green", "note": "yellow", "problem": "red"}
        for finding in findings:
            table.add_row(Text(finding.verdict, colours[finding.verdict]), finding.subject, Text(finding.detail))
        terminal.out.print(table)
    return int(any(finding.verdict == "problem" for finding in findings))


def _python(_store: Path) -> Iterator[Finding]:
    enough = sys.version_info >= (3, 11)
    yield Finding("Python", "ok" if enough else "problem", f"{platform.python_version()} on {platform.platform()}")


def _packages(_store: Path) -> Iterator[Finding]:
    for name in _PACKAGES:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "problem", "is not installed: pip install -c constraints.txt -e .")


def _machine(_store: Path) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    verdict: Literal["ok", "note"] = "ok" if cores >= 2 else "note"
    yield Finding("CPU cores", verdict, f"{cores}" if cores >= 2 else f"{cores}; the quickstart's crew has two workers")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", "ok" if memory >= _MIN_MEMORY_BYTES else "note", bytes_text(memory))
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        wanted = "" if free >= _MIN_SHM_BYTES else "; Ray's object store falls back to slower disk"
        yield Finding("/dev/shm", "ok" if free >= _MIN_SHM_BYTES else "note", f"{bytes_text(free)} free{wanted}")


def _accelerators(_store: Path) -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("accelerators", "problem", f"torch cannot be imported: {error}")
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    yield Finding("accelerators", "ok", names or "none; studies run on the CPU")
    from w2s_ray.training.workers import computes_bf16

    has_bf16 = computes_bf16(torch.device("cuda" if count else "cpu"))
    lack = "no instructions for it: `precision: bf16` computes in fp32, with other rounding and more slowly"
    yield Finding("bf16", "ok" if has_bf16 else "note", "has instructions for it" if has_bf16 else lack)


def _store(folder: Path) -> Iterator[Finding]:
    store = ArtifactStore(folder)
    made = [each for each in (store.root, *store.root.parents) if not each.exists()]
    inside = [each for each in (store.root / name for name in FOLDERS) if not each.exists()]
    try:
        store.prepare()
    except StoreError as error:
        yield Finding("store", "problem", f"{error.value}; {error.remedy}")
        return
    finally:  # looking leaves nothing behind
        for each in (*inside, *made):
            with suppress(OSError):
                each.rmdir()
    there = next(each for each in (store.root, *store.root.parents) if each.exists())
    yield Finding("store", "ok", f"{store.root}, {bytes_text(shutil.disk_usage(there).free)} free")


def _services(_store: Path) -> Iterator[Finding]:
    try:
        from w2s_ray.tracking.wandb import has_key
    except ImportError:
        pass  # said above, among the packages
    else:
        known = has_key()
        yield Finding("W&B", "ok" if known else "note", "key found" if known else "no key: runs are kept offline")

    if hub.is_reachable():
        yield Finding("Hugging Face hub", "ok", "reachable")
    else:
        yield Finding("Hugging Face hub", "note", "cannot be reached: only built-in, local and cached models and data")


_CHECKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _machine,
    _accelerators,
    _store,
    _services,
)
