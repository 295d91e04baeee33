import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from progguide_jax.runtime import digests, sharding


def test_digest_is_sha256_of_names_types_and_bytes():
    tree = {"b": {"w": jnp.float32([[1, 2]])}, "a": np.int32(3)}
    lines = b"a int32 ()\n" + np.int32(3).tobytes()
    lines += b"b/w float32 (1, 2)\n" + np.float32([1, 2]).tobytes()
    assert digests.digest(tree) == hashlib.sha256(lines).hexdigest()[:16]
    placed = jax.device_put(tree, sharding.replicated(sharding.mesh()))
    assert digests.digest(placed) == digests.digest(tree)
    for other in (
        {"b": {"v": tree["b"]["w"]}, "a": tree["a"]},
        {"b": {"w": tree["b"]["w"].T}, "a": tree["a"]},
        {"b": {"w": tree["b"]["w"].view(jnp.int32)}, "a": tree["a"]},
        {"b": {"w": tree["b"]["w"] + 1e-6}, "a": tree["a"]},
    ):
        assert digests.digest(other) != digests.digest(tree)
