"""The demo's model: a small convolution encoder, and a causal decoder that looks at it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from logitbox.demo.tokens import COORD_IDS, TOKENS


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; ``canvas`` is the side of the picture in pixels, a multiple of 4."""

    canvas: int = 40
    channels: int = 32
    blocks: int = 3
    width: int = 128
    heads: int = 4
    layers: int = 2
    max_length: int = 32


class ConvBlock(nn.Module):
    """3x3 convolution, group normalisation, GELU; adds its input where the shapes agree."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, outside)
        self.residual = inside == outside and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inside, H, W]`` to ``[B, outside, H / stride, W / stride]``."""
        y = functional.gelu(self.norm(self.conv(x)))
        return x + y if self.residual else y


class ImageEncoder(nn.Module):
    """Turns a picture into a grid of image tokens that know their place."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c, side = config.channels, config.canvas // 4
        self.blocks = nn.Sequential(
            ConvBlock(1, c, stride=2),
            ConvBlock(c, c),
            ConvBlock(c, config.width, stride=2),
            *(ConvBlock(config.width, config.width) for _ in range(config.blocks)),
        )
        self.row = nn.Parameter(torch.randn(side, 1, config.width) * 0.1)
        self.column = nn.Parameter(torch.randn(1, side, config.width) * 0.1)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[B, 1, canvas, canvas]`` to tokens ``[B, (canvas / 4)^2, width]``."""
        grid = self.blocks(images).permute(0, 2, 3, 1) + self.row + self.column
        return self.norm(grid.flatten(1, 2))


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself (causal) or to a context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor, causal: bool) -> Tensor:
        """Attend from ``[B, T, width]`` to ``[B, S, width]``; returns ``[B, T, width]``."""
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, dim=-1))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Pre-norm layer: attention to earlier text, attention to the picture, two-layer network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.text = Attention(width, heads)
        self.picture = Attention(width, heads)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        """Map text ``[B, T, width]``, given the picture ``[B, S, width]``, to ``[B, T, width]``."""
        y = self.norms[0](x)
        x = x + self.text(y, y, causal=True)
        x = x + self.picture(self.norms[1](x), picture, causal=False)
        return x + self.network(self.norms[2](x))


class DigitReader(nn.Module):
    """Reads a picture and predicts the next token of its JSON description."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = ImageEncoder(config)
        self.embedding = nn.Embedding(len(TOKENS), config.width)
        self.position = nn.Parameter(torch.randn(config.max_length, config.width) * 0.1)
        self.layers = nn.ModuleList(DecoderLayer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        with torch.no_grad():
            self.embedding.weight.normal_(0.0, 0.1)
            self.embedding.weight[COORD_IDS.start : COORD_IDS.stop] = ordered_rows(
                len(COORD_IDS), config.width
            )

    def forward(self, images: Tensor, input_ids: Tensor) -> Tensor:
        """Predict the next token at every position.

        Args:
            images: float32 ``[B, 1, canvas, canvas]`` in 0-1.
            input_ids: int64 ``[B, T]``, padded on the right (so the causal mask alone hides the padding).

        Returns:
            Logits, float32 ``[B, T, V]``; the label of position t is token t + 1.
        """
        picture = self.encoder(images)
        x = self.embedding(input_ids) + self.position[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x, picture)
        return self.norm(x) @ self.embedding.weight.T


def ordered_rows(count: int, width: int) -> Tensor:
    """Return ``[count, width]`` rows of waves, so that neighbouring bins start out alike.

    The 1000 bins are one quantity, not 1000 words: starting from random rows, most of a short training run
    goes into finding their order.
    """
    place = torch.linspace(0.0, math.pi, count)[:, None]
    octaves = torch.linspace(0.0, math.log2(count / 16), width // 2)
    angle = place * 2.0**octaves
    return torch.cat([angle.sin(), angle.cos()], dim=1) * 0.1 * math.sqrt(2.0)
