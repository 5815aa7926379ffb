"""Rewrites the manifest of the published examples from the installed packages."""

import json

from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.embedded.code_continuation import CodeContinuation
from w2s_ray.tasks.embedded.code_domain import CodeDomain
from w2s_ray.tasks.embedded.published import MANIFEST, Manifest, digest_of

TASKS = (
    CodeContinuation(),
    CodeContinuation(hard=True),
    CodeContinuation(kind="pairs"),
    CodeContinuation(hard=True, kind="pairs"),
    CodeDomain(),
)

if __name__ == "__main__":
    manifest = Manifest(versions=corpus.versions(), tasks={task.name: digest_of(task.examples()) for task in TASKS})
    MANIFEST.write_text(json.dumps(manifest.model_dump(), indent=1, sort_keys=True) + "\n")
