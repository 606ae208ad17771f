"""The model of the demo, ``launch/train_gpt.py``, which is not installed. Only ranks import this.

The demo is an example to copy, so it stands alone; a test holds the two together.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Tensor = Any
BYTES = 256  # values of a token


@dataclass(frozen=True)
class Shape:
    """How large the model is, and a batch of a rank.

    Attributes:
        width: of the model.
        layers: of the transformer.
        heads: of attention; ``width`` is a multiple of it.
        seq_len: bytes of a sequence.
        batch: sequences of a rank in a step.

    """

    width: int
    layers: int
    heads: int
    seq_len: int
    batch: int


class GPT(nn.Module):  # type: ignore[misc]  # torch is skipped, so Module is Any
    """Predicts each next byte from the bytes before it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, options = shape.width, {"batch_first": True, "norm_first": True}
        self.byte = nn.Embedding(BYTES, width)
        nn.init.normal_(self.byte.weight, std=0.1)
        self.position = nn.Parameter(torch.zeros(shape.seq_len, width))
        layer = nn.TransformerEncoderLayer(width, shape.heads, 4 * width, 0.0, "gelu", **options)
        self.layers = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, BYTES)

    def forward(self, x: Tensor) -> Tensor:
        """Map bytes (batch, time) to logits (batch, time, 256)."""
        h = self.byte(x) + self.position[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.norm(self.layers(h, mask=mask, is_causal=True)))


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """Mean cross-entropy per byte, in nats, of sequences of ``seq_len`` + 1 bytes."""
    return nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
