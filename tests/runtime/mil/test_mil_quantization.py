"""quantize and dequantize at their edges: ties, saturation, zero points, scales per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("output", "zero", "expected"),
    [
        # x / 0.5 = -300, -128.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5, 300; ties go to the even neighbour
        ("int8", None, [-128, -128, -2, -2, 0, 0, 2, 2, 126, 127, 127]),
        ("int8", 3, [-128, -125, 1, 1, 3, 3, 5, 5, 127, 127, 127]),
        ("uint8", 128, [0, 0, 126, 126, 128, 128, 130, 130, 254, 255, 255]),
    ],
)
@pytest.mark.parametrize("compute", ["declared", "float64"])
def test_quantize(output: str, zero: int | None, expected: list[int], dtype: str, compute: str, open_program: Any) -> None:
    x = np.array([-150, -64.25, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 63.25, 63.75, 150], dtype)
    scale = np.array(0.5, dtype)[()]
    options = {} if zero is None else {"zero_point": np.array(zero, output)[()]}

    def build(mb: Any, x: Any) -> Any:
        return mb.cast(x=mb.quantize(input=x, scale=scale, output_dtype=output, **options), dtype="int32")

    program = open_program({"x": (x.shape, dtype)}, build)
    (result,) = program.run({"x": x}, compute=compute).values()
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("compute", ["declared", "float64"])
def test_round_trip_per_channel(compute: str, open_program: Any, rng: np.random.Generator) -> None:
    x = rng.uniform(-40, 40, (2, 3, 5)).astype(np.float32)
    scale, zero = np.float32([0.25, 0.1, 0.5]), np.int8([0, 5, -7])

    def build(mb: Any, x: Any) -> Any:
        q = mb.quantize(input=x, scale=scale, zero_point=zero, axis=1, output_dtype="int8")
        return mb.dequantize(input=q, scale=scale, zero_point=zero, axis=1)

    program = open_program({"x": (x.shape, "float32")}, build)
    (result,) = program.run({"x": x}, compute=compute).values()
    s, z = scale.astype(float)[:, None], zero.astype(float)[:, None]
    expected = (np.clip(np.rint(x / s) + z, -128, 127) - z) * s
    # The integers are the same (no quotient lies on a tie), one product is rounded: half an ulp of float32.
    assert np.all(np.abs(np.abs(x / s) % 1 - 0.5) > 1e-5)
    tolerance = 0 if compute == "float64" else 2.0**-24
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=0)
