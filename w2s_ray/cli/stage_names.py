"""How a person names a stage: by the first digits of its identity, or as `arm:level[:method][:seed][:task]`."""

from collections.abc import Sequence

from w2s_ray.errors import StudyError
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages
from w2s_ray.spec.identity import short

MIN_DIGITS = 4
"""Fewer digits of an identity are taken for a mistake."""
_MOST_NAMED = 20


def find_stage(chains: Sequence[Chain], text: str) -> PlannedStage:
    """Return the one stage of the study that `text` names.

    Raises:
        StudyError: when it names none, or several.
    """
    found = _by_identity(chains, text) if ":" not in text else _by_place(chains, text)
    if len(found) == 1:
        return next(iter(found.values()))
    known = tuple((found or distinct_stages(chains)).values())
    raise StudyError(
        f"{text!r} names {len(found) or 'no'} stages of the study" if len(found) != 1 else text,
        f"a stage is named by {MIN_DIGITS} or more digits of its identity, or as arm:level[:method][:seed][:task]",
        "one of: " + "; ".join([describe(chains, stage) for stage in known[:_MOST_NAMED]] + _more(len(known))),
    )


def _more(num: int) -> list[str]:
    return [f"… and {num - _MOST_NAMED:,} more"] if num > _MOST_NAMED else []


def describe(chains: Sequence[Chain], stage: PlannedStage) -> str:
    """Return a name that `find_stage` understands, with the identity's first digits."""
    users = [chain for chain in chains if any(own.identity == stage.identity for own in chain.stages)]
    methods = {chain.method for chain in users}
    seeds = {chain.seed for chain in users}
    parts = [stage.arm, stage.level]
    parts += methods if len(methods) == 1 else []
    parts += map(str, seeds) if len(seeds) == 1 else []
    parts += [stage.task] if len({chain.task for chain in chains}) > 1 else []
    return f"{short(stage.identity)} ({':'.join(parts)})"


def _by_identity(chains: Sequence[Chain], digits: str) -> dict[str, PlannedStage]:
    if len(digits) < MIN_DIGITS:
        return {}
    return {known: stage for known, stage in distinct_stages(chains).items() if known.startswith(digits)}


def _by_place(chains: Sequence[Chain], text: str) -> dict[str, PlannedStage]:
    """Match arm and level in their places; the rest may be a method, a seed or a task, in any order."""
    arm, level, *rest = text.split(":")
    matching = [chain for chain in chains if all(part in (chain.method, str(chain.seed), chain.task) for part in rest)]
    stages = (stage for chain in matching for stage in chain.stages if (stage.arm, stage.level) == (arm, level))
    return {stage.identity: stage for stage in stages}
