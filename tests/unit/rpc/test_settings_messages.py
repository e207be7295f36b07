"""Settings in the messages of gRPC, where a kind of value has its field and none means to go back."""

from __future__ import annotations

import pytest

from service.errors import InvalidInput
from service.rpc.generated.inference_pb2 import LogSettingsRequest, TraceSettingRequest
from service.rpc.settings_messages import log_changes, log_response, trace_changes, trace_response


def test_trace_settings_are_text_but_for_the_levels_and_none_goes_back() -> None:
    request = TraceSettingRequest()
    request.settings["trace_level"].value.append("TIMESTAMPS")
    request.settings["trace_rate"].value.append("5")
    request.settings["trace_count"].SetInParent()
    assert trace_changes(request) == {"trace_level": ["TIMESTAMPS"], "trace_rate": "5", "trace_count": None}
    shown = trace_response({"trace_level": ["OFF"], "trace_rate": "1000"}).settings
    assert {name: list(value.value) for name, value in shown.items()} == {
        "trace_level": ["OFF"],
        "trace_rate": ["1000"],
    }


def test_several_values_of_one_trace_setting_are_refused() -> None:
    request = TraceSettingRequest()
    request.settings["trace_rate"].value.extend(["1", "2"])
    with pytest.raises(InvalidInput, match="trace setting 'trace_rate' has 2 values; send one"):
        trace_changes(request)


def test_log_settings_keep_their_kinds() -> None:
    settings = {"log_info": True, "log_verbose_level": 2, "log_format": "ISO8601"}
    request = LogSettingsRequest.FromString(log_response(settings).SerializeToString())
    assert log_changes(request) == settings


def test_a_log_setting_without_a_value_is_refused() -> None:
    request = LogSettingsRequest()
    request.settings["log_info"].SetInParent()
    with pytest.raises(InvalidInput, match="log setting 'log_info' has no value"):
        log_changes(request)
