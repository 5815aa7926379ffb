"""`w2s doctor`: check whether this machine can run studies."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from w2s_ray import hub
from w2s_ray.cli.inputs import print_store
from w2s_ray.cli.terminal import bytes_text, terminal
from w2s_ray.errors import StoreError
from w2s_ray.store.artifacts import FOLDERS, ArtifactStore

_PACKAGES = ("ray", "deepspeed", "torch", "transformers", "datasets", "wandb")
_MIN_MEMORY_BYTES = 6 * 2**30
_MIN_SHM_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    verdict: Literal["ok", "note", "problem"]
    detail: str


def examine(store_folder: Path, *, as_json: bool) -> int:
    """Print all findings; return 1 if one of them would stop a study."""
    print_store(ArtifactStore(store_folder), as_json=as_json)
    findings = [finding for check in _CHECKS for finding in check(store_folder)]
    if as_json:
        terminal.json(findings)
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
    yield Finding("CPU cores", verdict, f"{cores}" if cores >= 2 else f"{cores}; the quickstart study has two workers")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", "ok" if memory >= _MIN_MEMORY_BYTES else "note", bytes_text(memory))
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        warning = "" if free >= _MIN_SHM_BYTES else "; Ray's object store will use slower disk"
        yield Finding("/dev/shm", "ok" if free >= _MIN_SHM_BYTES else "note", f"{bytes_text(free)} free{warning}")


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
    without = "not supported by the hardware: `precision: bf16` computes in fp32, more slowly and with other rounding"
    yield Finding("bf16", "ok" if has_bf16 else "note", "supported by the hardware" if has_bf16 else without)


def _store(folder: Path) -> Iterator[Finding]:
    store = ArtifactStore(folder)
    parents = [path for path in (store.root, *store.root.parents) if not path.exists()]
    folders = [path for path in (store.root / name for name in FOLDERS) if not path.exists()]
    try:
        store.prepare()
    except StoreError as error:
        yield Finding("store", "problem", f"{error.message}; {error.hint}")
        return
    finally:  # leave no folder behind
        for path in (*folders, *parents):
            with suppress(OSError):
                path.rmdir()
    existing = next(path for path in (store.root, *store.root.parents) if path.exists())
    yield Finding("store", "ok", f"{store.root}, {bytes_text(shutil.disk_usage(existing).free)} free")


def _services(_store: Path) -> Iterator[Finding]:
    try:
        from w2s_ray.tracking.wandb import has_key
    except ImportError:
        pass  # `_packages` reports it
    else:
        known = has_key()
        yield Finding("W&B", "ok" if known else "note", "key found" if known else "no key: runs are kept offline")
    if hub.is_reachable():
        yield Finding("Hugging Face hub", "ok", "reachable")
    else:
        yield Finding("Hugging Face hub", "note", "unreachable: only built-in, local and cached models and data")


_CHECKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _machine,
    _accelerators,
    _store,
    _services,
)
