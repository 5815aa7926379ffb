"""A worker that gives way before its machine is full."""

import time
from pathlib import Path

import pytest

from w2s_ray.scheduling.workers import memory_watch
from w2s_ray.scheduling.workers.memory_watch import MemoryWatch, is_short
from w2s_ray.training.memory.usage import GIB, Memory

FULL, ROOMY = Memory(100 * GIB, GIB), Memory(100 * GIB, 50 * GIB)


class Machine:
    """Its memory, and the workers on it that give way; each frees the machine when it has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = ROOMY
        self.gave_way: list[str] = []
        monkeypatch.setattr(memory_watch, "host_memory", lambda: self.memory)
        monkeypatch.setattr(memory_watch, "_HEAD_START_SECONDS", 0.05)
        monkeypatch.setattr(memory_watch, "_LOOK_SECONDS", 0.02)

    def worker(self, name: str) -> MemoryWatch:
        def give_way(figures: str) -> None:
            assert "GiB" in figures
            self.gave_way.append(name)
            time.sleep(0.2)  # a process of many gigabytes takes a while to go
            self.memory = ROOMY

        return MemoryWatch(give_way)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setattr(memory_watch, "_lock_path", lambda: tmp_path / "lock")
    return Machine(monkeypatch)


def test_a_worker_ends_a_little_before_rays_monitor_would_act(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_memory_monitor_refresh_ms", raising=False)
    assert is_short(Memory(100 * GIB, 5 * GIB))
    assert not is_short(Memory(100 * GIB, 6 * GIB))


def test_memory_is_watched_only_while_a_stage_runs(machine: Machine) -> None:
    watch = machine.worker("a")
    machine.memory = FULL
    time.sleep(0.3)
    assert machine.gave_way == []
    with watch:
        time.sleep(0.5)
    assert machine.gave_way == ["a"]


def test_only_one_worker_of_a_machine_ends_at_a_time(machine: Machine) -> None:
    first, second = machine.worker("a"), machine.worker("b")
    with first, second:
        machine.memory = FULL
        time.sleep(1.0)
    assert len(machine.gave_way) == 1
