"""Outputs that are an input as it came, of which OpenVINO would answer with another call's memory, or crash.

Where nothing but casts without effect lies between an input and an output of open shape, the compiler leaves no
operator between them, and the output then keeps to the memory of an earlier call's input. An operator that copies mends
that.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from service.engines.openvino_import import openvino as ov
from service.engines.openvino_import import opset

# What the ONNX reader appends to an output's name to call the node that ends there.
OUTPUT_SUFFIX = "/sink_port_0"
# What the compiler may take out, and takes a copy behind it out with.
_WITHOUT_EFFECT = ("Convert", "Identity")


def passed_on(compiled: ov.CompiledModel) -> Set[str]:
    """The nodes' names of the outputs that have no operator between them and an input at run time."""
    results = compiled.get_runtime_model().get_results()
    return {result.get_friendly_name() for result in results if _is_input(result.input_value(0).get_node())}


def copy_outputs(model: ov.Model, names: Set[str], inputs: Sequence[str]) -> None:
    """Puts an operator that copies before the outputs whose nodes have these names; all tensors keep their names.

    `inputs` are the names of the model's inputs as the file states them, in order.
    """
    for result in model.get_results():
        if result.get_friendly_name() in names:
            source, name = result.input_value(0), result.get_friendly_name().removesuffix(OUTPUT_SUFFIX)
            copied = opset.identity(_origin(source)).output(0)
            # Where the reader left no operator at all, the input bears the output's name too, or alone.
            source.set_names(source.get_names() - {name})
            copied.set_names({name})
            result.input(0).replace_source_output(copied)
    for port, stated in zip(model.inputs, inputs, strict=True):
        port.set_names({stated})


def _origin(source: ov.Output) -> ov.Output:
    """The input behind operators without effect, where there are such alone."""
    port = source
    while port.get_node().get_type_name() in _WITHOUT_EFFECT:
        port = port.get_node().input_value(0)
    same = port.get_node().get_type_name() == "Parameter" and port.get_element_type() == source.get_element_type()
    return port if same else source


def _is_input(node: ov.Node) -> bool:
    return str(node.get_rt_info()["layerType"].astype(str)) == "Input"
