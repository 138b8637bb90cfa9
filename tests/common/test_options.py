"""Yes and no, however they were written."""

from __future__ import annotations

import pytest

from common.options import switch


@pytest.mark.parametrize(
    ("value", "meant"), [(True, True), (False, False), ("true", True), ("False", False), ("FALSE", False)]
)
def test_switch(value: bool | str, meant: bool):
    assert switch(value, "resume") is meant


@pytest.mark.parametrize("value", ["yes", "", 1, None])
def test_neither_is_refused(value):
    with pytest.raises(ValueError, match=r"resume is .* true or false"):
        switch(value, "resume")
