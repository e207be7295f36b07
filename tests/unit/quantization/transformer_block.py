"""One block of a transformer made by hand: self-attention and a feed-forward layer, each behind a normalisation."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from tests.unit.quantization.small_models import Array, fp32, model_of, value

WIDTH = 32
HEADS = 2
TOKENS = 6


def transformer_block(opset: int = 17, scale: float = 1.0) -> ModelProto:
    """FP32 [batch, 6, 32] to the same shape. `scale` multiplies what enters the normalisations."""
    random = np.random.default_rng(5)
    constants: dict[str, Array] = {
        "split_heads": np.array([0, TOKENS, HEADS, WIDTH // HEADS], np.int64),
        "join_heads": np.array([0, TOKENS, WIDTH], np.int64),
        "root": fp32(np.sqrt(WIDTH / HEADS)),
        "scale": fp32(scale),
    }
    for name, rows, columns in (("up", WIDTH, 4 * WIDTH), ("down", 4 * WIDTH, WIDTH)):
        constants[f"{name}.w"] = random.normal(0, 1 / np.sqrt(rows), (rows, columns)).astype(np.float32)
    for name in ("query", "key", "value", "out"):
        constants[f"{name}.w"] = random.normal(0, 1 / np.sqrt(WIDTH), (WIDTH, WIDTH)).astype(np.float32)
    for name, size in (
        ("query", WIDTH),
        ("key", WIDTH),
        ("value", WIDTH),
        ("out", WIDTH),
        ("up", 4 * WIDTH),
        ("down", WIDTH),
    ):
        constants[f"{name}.b"] = random.normal(0, 0.1, size).astype(np.float32)
    for name in ("norm1", "norm2"):
        constants[f"{name}.w"] = random.uniform(0.5, 1.5, WIDTH).astype(np.float32)
        constants[f"{name}.b"] = random.normal(0, 0.1, WIDTH).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"], "scaling"),
        _norm("scaled", "normed", "norm1"),
        *_attention("normed", "attended"),
        helper.make_node("Add", ["x", "attended"], ["middle"], "skip1"),
        helper.make_node("Mul", ["middle", "scale"], ["middle_scaled"], "scaling2"),
        _norm("middle_scaled", "middle_normed", "norm2"),
        *_linear("middle_normed", "wide", "up"),
        *_gelu("wide", "active"),
        *_linear("active", "narrow", "down"),
        helper.make_node("Add", ["middle", "narrow"], ["y"], "skip2"),
    ]
    constants |= {"root2": fp32(np.sqrt(2)), "one": fp32(1), "half": fp32(0.5)}
    shape = ("batch", TOKENS, WIDTH)
    return model_of(nodes, [value("x", shape)], [value("y", shape)], constants, opset)


def tokens(rows: int, seed: int = 0) -> Array:
    """FP32 [rows, 6, 32]."""
    return np.random.default_rng(seed).normal(0, 1, (rows, TOKENS, WIDTH)).astype(np.float32)


def _norm(source: str, result: str, name: str) -> NodeProto:
    return helper.make_node("LayerNormalization", [source, f"{name}.w", f"{name}.b"], [result], name)


def _linear(source: str, result: str, name: str) -> list[NodeProto]:
    return [
        helper.make_node("MatMul", [source, f"{name}.w"], [f"{result}_product"], name),
        helper.make_node("Add", [f"{result}_product", f"{name}.b"], [result], f"{name}/bias"),
    ]


def _attention(source: str, result: str) -> list[NodeProto]:
    nodes = []
    for name, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        nodes += _linear(source, f"{name}_all", name)
        nodes.append(helper.make_node("Reshape", [f"{name}_all", "split_heads"], [f"{name}_split"], f"{name}/split"))
        nodes.append(helper.make_node("Transpose", [f"{name}_split"], [name], f"{name}/turn", perm=order))
    return [
        *nodes,
        helper.make_node("MatMul", ["query", "key"], ["scores"], "scores"),
        helper.make_node("Div", ["scores", "root"], ["tempered"], "temper"),
        helper.make_node("Softmax", ["tempered"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "value"], ["mixed"], "mix"),
        helper.make_node("Transpose", ["mixed"], ["mixed_turned"], "mix/turn", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed_turned", "join_heads"], ["joined"], "mix/join"),
        *_linear("joined", result, "out"),
    ]


def _gelu(source: str, result: str) -> list[NodeProto]:
    return [
        helper.make_node("Div", [source, "root2"], ["gelu_scaled"], "gelu/div"),
        helper.make_node("Erf", ["gelu_scaled"], ["gelu_erf"], "gelu/erf"),
        helper.make_node("Add", ["gelu_erf", "one"], ["gelu_shifted"], "gelu/add"),
        helper.make_node("Mul", [source, "gelu_shifted"], ["gelu_product"], "gelu/mul"),
        helper.make_node("Mul", ["gelu_product", "half"], [result], "gelu/half"),
    ]
