#!/usr/bin/env python3
"""Makes tests/data/weights/vectors.bin: blocks of every weight type, and what they mean in float32.

    python3 tools/make-weight-vectors.py        (PyPI packages: numpy, gguf; values made with gguf 0.19.0)

The blocks are random bytes, so that every code and sub-scale occurs; their float16 scales are set to sane values and,
in the first blocks, to the extremes: 0, the largest and the smallest float16, negative. The float32 values are those
of gguf's own dequantization. The seed is fixed: running it again changes nothing.

Layout, little-endian: "KVWV", u32 number of types; per type: u32 ggml type, u32 block, u32 block bytes, u32 elements,
u32 bytes, the blocks, the float32 values.
"""
import os
import struct

import gguf
import numpy as np

# type: byte positions of the float16 scales in a block
SCALES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}
EXTREMES = np.array([0.0, 65504.0, 2.0**-24, -65504.0, -0.03, 1.0], dtype=np.float16)
N_ELEMENTS = 2048  # 64 blocks of 32, 8 of 256


def quantized(rng, kind):
    block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_blocks = N_ELEMENTS // block
    data = rng.integers(0, 256, (n_blocks, n_bytes), dtype=np.uint8)
    data[0] = 0xFF
    data[1] = 0
    for position in SCALES[kind.name]:
        scale = (rng.standard_normal(n_blocks) * 0.02).astype(np.float16)
        n = min(len(EXTREMES), n_blocks - 1)
        scale[1:1 + n] = rng.permutation(EXTREMES)[:n]
        data[:, position:position + 2] = scale.view(np.uint8).reshape(n_blocks, 2)
    return data.reshape(-1)


def floats(rng, kind):
    if kind.name == "F32":
        x = rng.standard_normal(N_ELEMENTS).astype(np.float32)
        x[:6] = [0.0, -0.0, 3.4e38, 1e-45, np.inf, -np.inf]
        return x.view(np.uint8)
    bits = rng.integers(0, 65536, N_ELEMENTS, dtype=np.uint16)  # every kind of number but NaN
    exponent = 0x7C00 if kind.name == "F16" else 0x7F80
    bits[(bits & exponent) == exponent] &= np.uint16(0x8000 | exponent)
    return bits.view(np.uint8)


def main():
    names = ["F32", "F16", "BF16", *SCALES]
    out = [b"KVWV", struct.pack("<I", len(names))]
    for name in names:
        kind = gguf.GGMLQuantizationType[name]
        rng = np.random.default_rng([7, kind.value])
        data = quantized(rng, kind) if name in SCALES else floats(rng, kind)
        value = np.asarray(gguf.dequantize(data, kind), dtype="<f4").reshape(-1)
        assert value.size == N_ELEMENTS
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        out.append(struct.pack("<5I", kind.value, block, block_bytes, value.size, data.size))
        out += [data.tobytes(), value.tobytes()]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.path.join(root, "tests", "data", "weights", "vectors.bin")
    with open(path, "wb") as file:
        file.write(b"".join(out))
    print(path)


main()
