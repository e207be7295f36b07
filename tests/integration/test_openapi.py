"""Every operation of the OpenAPI document under requests made from its schemas: answered as it says, failing never."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from tests.installation import served, upload_digits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

# Requests an operation and kind of data: some tenths of a second each.
_EXAMPLES = 15
_CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
_settings = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with served(tmp_path_factory.mktemp("openapi")) as client:
        upload_digits(client)
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        schema.config.update(base_url=str(client.base_url).rstrip("/"))
        yield schema


def test_every_error_of_the_whole_document_has_the_one_form(document: Any) -> None:
    found = {
        f"{method} {path} {status}": answer["content"]["application/json"]["schema"]
        for path, operations in document.raw_schema["paths"].items()
        for method, operation in operations.items()
        for status, answer in operation["responses"].items()
        if not status.startswith("2")
    }
    assert "get /v2/health/ready 400" in found
    assert {name for name, schema in found.items() if schema != {"$ref": "#/components/schemas/ErrorBody"}} == set()
    assert not {"HTTPValidationError", "ValidationError"} & set(document.raw_schema["components"]["schemas"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_every_operation_answers_as_documented(document: Any, mode: GenerationMode) -> None:
    failures: dict[str, str] = {}
    operations = [operation.ok() for operation in document.get_all_operations()]
    for operation in operations:
        try:
            _try(operation, mode)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 (whatever it is, the others are tried)
            failures[operation.label] = str(error)[:2000]
    assert len(operations) > 30
    assert failures == {}


def _try(operation: Any, mode: GenerationMode) -> None:
    @_settings
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        response = case.call()
        # 501 and 503 are documented refusals; a 500 is a fault, whether it is documented or not.
        assert response.status_code != 500, f"{case.as_curl_command()}\n{response.text}"
        case.validate_response(response, checks=_CHECKS)

    with suppress(Unsatisfiable):
        # Some operations take nothing that could be wrong.
        check()
