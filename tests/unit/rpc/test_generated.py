"""The generated messages are those of the .proto file, and those of the protocol."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc.model_config_pb2 as client_config
import tritonclient.grpc.service_pb2 as client
from google.protobuf.descriptor import Descriptor

from service.rpc.generated import inference_pb2 as ours

RPC = Path(ours.__file__).parents[1]
MESSAGES = sorted(ours.DESCRIPTOR.message_types_by_name)


def test_the_generated_code_is_what_the_proto_file_makes(tmp_path: Path) -> None:
    arguments = ["-I", str(RPC), f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", str(RPC / "inference.proto")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, capture_output=True)
    made = (tmp_path / "inference_pb2.py").read_text()
    own_pool = made.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")
    assert (RPC / "generated" / "inference_pb2.py").read_text() == own_pool, "run make proto"
    assert (RPC / "generated" / "inference_pb2.pyi").read_text() == (tmp_path / "inference_pb2.pyi").read_text()


def theirs(name: str) -> Descriptor:
    message: Any = getattr(client, name, None) or getattr(client_config, name)
    known: Descriptor = message.DESCRIPTOR
    return known


@pytest.mark.parametrize("name", MESSAGES)
def test_each_message_has_the_names_numbers_and_kinds_that_clients_know(name: str) -> None:
    def compare(mine: Descriptor, known: Descriptor) -> None:
        for field in mine.fields:
            other = known.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
        for nested in mine.nested_types:
            compare(nested, known.nested_types_by_name[nested.name])
        for enum in mine.enum_types:
            other_values = known.enum_types_by_name[enum.name].values_by_name
            assert {value.name: value.number for value in enum.values} == {
                value.name: value.number for value in other_values.values()
            }

    compare(ours.DESCRIPTOR.message_types_by_name[name], theirs(name))


def test_datatypes_have_the_numbers_that_clients_know() -> None:
    assert dict(ours.DataType.items()) == dict(client_config.DataType.items())


def test_our_messages_and_a_clients_of_the_same_names_live_in_one_process() -> None:
    written = client.ModelInferRequest(model_name="m", raw_input_contents=[b"1"]).SerializeToString()
    assert ours.ModelInferRequest.FromString(written).model_name == "m"
