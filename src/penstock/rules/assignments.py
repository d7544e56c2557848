"""Who meets which arm: a hash of the rollout's salt and the unit, below the weight or not.

The draw depends on nothing that changes during a rollout, so raising the weight moves units only
from stable to candidate. A new rollout has a new salt, so nobody is in every canary.
"""

from __future__ import annotations

import hashlib

from penstock.domain.rollouts import Arm

_DRAWS = float(2**53)  # what a float can hold of the 64 bits, so that a draw is always below 1


def draw(salt: str, unit: str) -> float:
    """The unit's place in [0, 1): the upper 53 bits of the 64-bit BLAKE2b of salt and unit."""
    digest = hashlib.blake2b(f"{salt}|{unit}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / _DRAWS


def assign(salt: str, unit: str, weight: float) -> Arm:
    """The arm a unit meets when ``weight`` (0 to 1) of all units meet the candidate."""
    return Arm.CANDIDATE if draw(salt, unit) < weight else Arm.STABLE
