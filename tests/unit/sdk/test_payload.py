"""What a payload demands of providers."""

from __future__ import annotations

import pytest

from golemp2p.errors import UsageError
from golemp2p.sdk import vm

DIGEST = "sha256:" + "a" * 64


async def test_an_image_of_a_registry_goes_to_providers_that_pull() -> None:
    payload = await vm(f"docker://debian@{DIGEST}")
    assert "(golem.runtime.capabilities=pull)" in payload.constraints


async def test_an_image_of_a_registry_is_named_by_digest() -> None:
    for name in ("docker://debian", "docker://debian:12", "docker://debian@sha256:aa"):
        with pytest.raises(UsageError, match="digest"):
            await vm(name)
