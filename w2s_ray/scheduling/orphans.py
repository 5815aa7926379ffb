"""Placement groups that nobody can use any more.

A worker group's placement group is made by Train's controller. When the controller is killed its workers die with it,
but the group keeps their CPUs until the whole job ends (ray#58515), so the crew that follows would wait for ever. What
is removed here are groups of this job whose maker is dead; Ray's public tables do not tell who made a group.
"""

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group

_NO_ACTOR = ray.ActorID.nil().binary()
"""The maker of groups that the job's own process made."""


def remove_orphans() -> int:
    """Remove this job's placement groups whose maker is dead, and return how many those were."""
    job = ray.get_runtime_context().get_job_id()
    found = [
        PlacementGroupTableData.FromString(each)
        for each in state._connect_and_get_accessor().get_placement_group_table()
    ]
    orphans = [
        each
        for each in found
        if each.state != PlacementGroupTableData.REMOVED
        and each.creator_actor_dead
        and each.creator_actor_id not in (b"", _NO_ACTOR)
        and not each.is_detached
        and each.creator_job_id.hex() == job
    ]
    for each in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(each.placement_group_id)))
    return len(orphans)
