"""Writes graph_def.pb, a small TensorFlow graph, and its constants in graph_def.npz.

    python tests/golden/make_graph_def.py

Values in both encodings: as bytes and, where TensorFlow shortens equal ones, as lists.
Made with tensorflow 2.21.0.
"""

import pathlib

import numpy as np
import tensorflow as tf

HERE = pathlib.Path(__file__).parent


def main() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 4)).astype(np.float32)
    constants = {
        "w": w,
        "ones": np.ones((2, 3), np.float32),
        "tail": np.array([1, 2, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7], np.float32),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 2), np.float32),
        "float64": rng.standard_normal(3),
        "half": rng.standard_normal(3).astype(np.float16),
        "half_scalar": np.float16(-1.5),
        "bfloat16": tf.constant([1.0, -3.140625, 1e38], tf.bfloat16).numpy(),
        "bfloat16_scalar": tf.constant(-3.140625, tf.bfloat16).numpy(),
        "int32": np.array([-5, 2**31 - 1], np.int32),
        "int32_scalar": np.int32(-7),
        "int64": np.array([-(2**60), 3]),
        "int64_scalar": np.int64(-(2**60)),
        "int16_scalar": np.int16(-300),
        "int8_scalar": np.int8(-3),
        "uint8": np.array([0, 255], np.uint8),
        "bool": np.array([True, False]),
        "bool_scalar": np.bool_(True),
    }
    graph = tf.Graph()
    with graph.as_default():
        for name, value in constants.items():
            tf.constant(value, name=f"net/{name}")
        tf.constant("a name", name="net/string")
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")
        tf.matmul(x, graph.get_tensor_by_name("net/w:0"), name="net/product")
    definition = graph.as_graph_def()
    (HERE / "graph_def.pb").write_bytes(definition.SerializeToString())
    values = {
        node.name: tf.make_ndarray(node.attr["value"].tensor)
        for node in definition.node
        if node.op == "Const" and node.name != "net/string"
    }
    np.savez_compressed(
        HERE / "graph_def.npz",
        **{
            k: v.astype(np.float32) if v.dtype.name == "bfloat16" else v
            for k, v in values.items()
        },
    )


if __name__ == "__main__":
    main()
