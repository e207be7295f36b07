"""Changes of the log settings: which are taken, and what the others are answered."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import InvalidInput, Unsupported
from service.logs import Levels
from service.protocol.log_settings import changed_levels


def test_what_is_left_out_stays_as_it_is() -> None:
    now = Levels(info=False, verbose=2)
    assert changed_levels(now, {"log_warning": False}) == Levels(False, False, True, 2)
    assert changed_levels(now, {"log_info": True, "log_verbose_level": 0, "log_format": "ISO8601"}) == Levels()
    assert changed_levels(now, {}) == now


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"log_info": 1}, InvalidInput, "'log_info' is 1; send true or false"),
        ({"log_error": None}, InvalidInput, "'log_error' is None"),
        ({"log_verbose_level": -1}, InvalidInput, "'log_verbose_level' is -1; send an integer from 0"),
        ({"log_verbose_level": True}, InvalidInput, "'log_verbose_level' is True"),
        ({"log_verbose_level": 2**40}, InvalidInput, "'log_verbose_level' is 1099511627776"),
        ({"colour": "red"}, InvalidInput, "log setting 'colour' is unknown; send one of log_info"),
        ({"log_file": "x.log"}, Unsupported, "log file location can not be updated through network protocol"),
        ({"log_format": "default"}, Unsupported, "'log_format' is 'default'; logs are JSON lines"),
        ({"log_format": ["x" * 500]}, Unsupported, "'log_format' is "),
    ],
)
def test_a_wrong_change_is_named_with_its_value(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as refused:
        changed_levels(Levels(), changes)
    assert len(str(refused.value)) < 300
