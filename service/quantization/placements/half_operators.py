"""What ONNX itself says of an operator's types: whether it is defined in FP16 or BF16, and which sides are fixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import NodeProto, defs

from service.quantization.graphs.graph import Graph

# BF16 came to most operators with opset 22, to which the emitter raises a graph.
LOWEST_OPSETS = {"FP16": 0, "BF16": 22}
_SPELLING = {"FP16": "tensor(float16)", "BF16": "tensor(bfloat16)"}
# Their results' type is an attribute, which whoever writes the graph changes with them.
TYPED_BY_ATTRIBUTE = frozenset({"Cast", "ConstantOfShape"})


def defined_in(node: NodeProto, graph: Graph, precision: str) -> bool:
    """Whether all FP32 sides of the node that may have another type may have this one."""
    schema = _schema(node, graph, LOWEST_OPSETS[precision])
    if schema is None or (node.op_type not in TYPED_BY_ATTRIBUTE and any(a.name == "dtype" for a in node.attribute)):
        return False
    allowed = {entry.type_param_str: set(entry.allowed_type_strs) for entry in schema.type_constraints}
    sides = (*_sides(node.input, schema.inputs), *_sides(node.output, schema.outputs))
    return all(
        _SPELLING[precision] in allowed[kind] for name, kind in sides if kind in allowed and graph.is_float(name)
    )


def fixed_sides(node: NodeProto, graph: Graph) -> set[str]:
    """The tensors that the node reads or makes as FP32 whatever type it computes in, such as the scales of Resize."""
    schema = _schema(node, graph, 0)
    if schema is None:
        return set()
    free = {entry.type_param_str for entry in schema.type_constraints}
    sides = (*_sides(node.input, schema.inputs), *_sides(node.output, schema.outputs))
    return {name for name, kind in sides if kind not in free and graph.is_float(name)}


def _sides(names: Sequence[str], formals: Sequence[defs.OpSchema.FormalParameter]) -> Iterator[tuple[str, str]]:
    """(tensor, its type in the schema); the last formal parameter stands for all that follow."""
    for index, name in enumerate(names):
        if name and formals:
            yield name, formals[min(index, len(formals) - 1)].type_str


def _schema(node: NodeProto, graph: Graph, lowest: int) -> defs.OpSchema | None:
    versions = {entry.domain: entry.version for entry in graph.model.opset_import}
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(node.domain, versions.get(domain, versions.get("ai.onnx", 1)))
    try:
        return defs.get_schema(node.op_type, version if domain else max(version, lowest), domain)
    except defs.SchemaError:
        return None
