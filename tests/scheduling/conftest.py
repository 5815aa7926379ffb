"""One Ray session for all tests that need one."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_of_two_cpus() -> Iterator[None]:
    from w2s_ray.scheduling.session import ray_session

    with ray_session(None, num_cpus=2):
        yield
