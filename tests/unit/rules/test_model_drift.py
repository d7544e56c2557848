"""A provider that answers with something else than was pinned is noticed."""

from __future__ import annotations

import pytest

from penstock.rules.chains import drifted

DATED = "gpt-4o-2024-08-06"


@pytest.mark.parametrize(
    ("pinned", "returned", "now", "before", "noticed"),
    [
        (DATED, DATED, "fp_1", None, False),
        (DATED, DATED, "fp_1", "fp_1", False),
        ("gpt-4o", DATED, None, None, False),
        (DATED, "gpt-4o-2024-11-20", None, None, True),
        (DATED, DATED, "fp_2", "fp_1", True),
        (DATED, None, None, None, False),
    ],
)
def test_another_model_or_configuration_is_noticed(pinned, returned, now, before, noticed):
    assert (drifted(pinned, returned, now, before) is not None) == noticed
