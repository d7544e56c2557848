"""A unit of work that fails is its caller's business, and nobody else's."""

import pytest


@pytest.mark.parametrize("way", ["read", "glance", "transact"])
async def test_one_that_cannot_be_called_fails_alone(store, way):
    """Those behind it are still answered: no thread has died of it."""

    async def work(tx):
        return (await tx.fetch_one("settings.get", name="nothing")) is None

    run = getattr(store, way)
    for _ in range(3):
        with pytest.raises(TypeError, match="argument"):
            await run(lambda: None)
    assert await run(work)
