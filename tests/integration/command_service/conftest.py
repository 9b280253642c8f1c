"""What the command service's integration tests share: the servers of the test run."""

import pytest


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """Redis of this test run."""
    url: str = request.getfixturevalue("stack").redis_url
    return url
