"""Dropout with rate 1/2 from one random bit per unit.

`torch.nn.Dropout` draws a uniform number per unit, which costs a large part of a step of OPNN. Here 64 units take one
draw, and the bits are drawn apart from their use, so that another implementation of the step can be given the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WORD = 64  # units that share a word
FACTORS = 2 * ((torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1).float()  # of the units of each octet


def words(units: int) -> int:
    """Words that hold a bit for each unit."""
    return -(-units // WORD)


def draw_bits(batch: int, count: int) -> Tensor:
    """Random words int64 [batch, count].

    They come from torch's default generator on the CPU, whatever device they are used on: its state is the whole state
    of the dropout.
    """
    return torch.empty(batch, count, dtype=torch.int64, device="cpu").random_(-(1 << 63), None)


def half_dropout(x: Tensor, bits: Tensor) -> Tensor:
    """x [batch, units] with every unit doubled or zeroed, as its bit (low bits first) is 1 or 0."""
    octets = bits.to(x.device).view(torch.uint8).int()  # to a GPU travel bits, not factors
    return x * F.embedding(octets, FACTORS.to(x)).flatten(1)[:, : x.shape[1]]
