"""Numbers in 4 bits."""

import numpy as np

from rerank_plugins.backends.embedded.blocks import unpack
from rerank_plugins.backends.local.onnx.build.quantise import quantise_blocks


def test_a_block_worked_by_hand():
    """Scale 0.5; byte j holds number j in its low bits and number j + 16 in its high ones."""
    block = np.frombuffer(np.float16(0.5).tobytes() + bytes([0x80 | 9] + [0x88] * 15), np.uint8)

    assert unpack(block[None]).tolist() == [[0.5] + [0.0] * 31]


def test_numbers_that_were_rounded_to_blocks_are_rounded_to_the_same_blocks():
    """So the graph that is built from unpacked weights holds them without any loss."""
    random = np.random.default_rng(0)
    numbers = random.integers(0, 16, (6, 4, 32), np.uint8)
    numbers[:, :, 5] = 0  # the largest magnitude of a block is -8 by its making
    scales = random.uniform(-1, 1, (6, 4)).astype(np.float16)
    packed = numbers[..., :16] | numbers[..., 16:] << 4
    blocks = np.concatenate([scales[..., None].view(np.uint8), packed], axis=2).reshape(6, -1)

    pairs, factors = quantise_blocks(unpack(blocks))

    assert (numbers[..., 0::2] == pairs & 15).all()
    assert (numbers[..., 1::2] == pairs >> 4).all()
    assert (factors == scales).all()
