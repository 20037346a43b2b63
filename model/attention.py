"""The SAM attention: recalibrates features by space and by channel, asking where each organ is.

The three parts of Segment Anything (Kirillov et al., ICCV 2023) put to work inside a U-Net
block, after Lin and Zhang (Advances in Clinical Medicine 16(3), 2026, 2644-2650): the image
encoder runs once per input (model/image_encoder.py); here are the prompt encoder and the
two-way attention mask decoder, of which every block has its own.

The prompts are the task: one learned token per organ, and the block's own features on the
embedding's grid. Nothing is clicked.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import Pointwise, attend

HEADS = 4
"""Of each attention; its width must be a multiple of them."""

LAYERS = 1
"""`TwoWayBlock`s of each mask decoder."""


class Attention(nn.Module):
    """Multi-head attention of queries to keys.

    Shapes: queries ``(B, Q, D)``, keys and values ``(B, N, D)``; ``(B, Q, D)`` out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return self.out(attend(self.q(queries), self.k(keys), self.v(values), HEADS))


class TwoWayBlock(nn.Module):
    """Tokens look at each other, then at the image; then the image looks at the tokens.

    Shapes: tokens ``(B, K, D)`` and image ``(B, N, D)`` in, the same out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.among_tokens = Attention(width)
        self.token_to_image = Attention(width)
        self.image_to_token = Attention(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.norms[0](tokens + self.among_tokens(tokens, tokens, tokens))
        tokens = self.norms[1](tokens + self.token_to_image(tokens, image, image))
        tokens = self.norms[2](tokens + self.mlp(tokens))
        image = self.norms[3](image + self.image_to_token(image, tokens, tokens))
        return tokens, image


class PromptEncoder(nn.Module):
    """What to look for: a learned token per organ, and the block's features as a dense prompt.

    Shapes: features ``(B, C, Z, Y, X)`` and image embedding ``(B, E, z, y, x)`` in; tokens
    ``(B, K, D)`` and prompted embedding ``(B, D, z, y, x)`` out.
    """

    def __init__(self, channels: int, embedding: int, width: int, organs: int) -> None:
        super().__init__()
        self.organs = nn.Parameter(torch.randn(1, organs, width) / width**0.5)
        self.image = Pointwise(embedding, width)
        self.dense = Pointwise(channels, width)

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        dense = self.dense(_average(x, embedding.shape[2:]))
        return self.organs.expand(len(x), -1, -1), self.image(embedding) + dense


class MaskDecoder(nn.Module):
    """Two-way attention between prompts and image; a mask and a weight per channel come out.

    Shapes: tokens ``(B, K, D)`` and embedding ``(B, D, z, y, x)`` in; mask logits
    ``(B, 1, z, 2y, 2x)`` and channel logits ``(B, C)`` out, in the precision of the weights
    whatever is around it: all features are multiplied by what it says, and it takes little time.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width) for _ in range(LAYERS))
        narrow = width // 4
        self.upscale = nn.Sequential(
            nn.ConvTranspose3d(width, narrow, (1, 2, 2), stride=(1, 2, 2)), nn.GELU()
        )
        self.hyper = nn.Linear(width, narrow)
        self.combine = nn.Linear(width, 1)
        self.channel = nn.Linear(width, channels)
        # Gates start nearly open (sigmoid(4) = 0.98), so a new block passes its features on.
        self.mask_bias = nn.Parameter(torch.tensor(4.0))
        nn.init.constant_(self.channel.bias, 4.0)

    def forward(self, tokens: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        device = "cpu" if embedding.is_meta else embedding.device.type  # autocast knows no meta
        with torch.autocast(device, enabled=False):
            return self._gates(*(t.to(self.mask_bias.dtype) for t in (tokens, embedding)))

    def _gates(self, tokens: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        grid = embedding.shape[2:]
        image = embedding.flatten(2).transpose(1, 2)  # (B, N, D)
        for layer in self.layers:
            tokens, image = layer(tokens, image)
        upscaled = self.upscale(image.transpose(1, 2).unflatten(2, grid))  # (B, d, z, 2y, 2x)
        masks = torch.einsum("bkd,bdzyx->bkzyx", self.hyper(tokens), upscaled)
        share = self.combine(tokens).softmax(dim=1)  # (B, K, 1): which organs matter here
        mask = torch.einsum("bkzyx,bk->bzyx", masks, share[..., 0])[:, None]
        return mask + self.mask_bias, self.channel(tokens.mean(dim=1))


class SamAttention(nn.Module):
    """How much of each feature is let through: by where the organs are (mask), and by channel.

    Shapes: features ``(B, C, Z, Y, X)`` and image embedding ``(B, E, z, y, x)`` in, a factor for
    each feature out, in (0, 1).
    """

    def __init__(self, channels: int, *, embedding: int, organs: int, width: int) -> None:
        super().__init__()
        self.prompt = PromptEncoder(channels, embedding, width, organs)
        self.decoder = MaskDecoder(channels, width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        mask, channel = self.decoder(*self.prompt(x, embedding))
        mask = F.interpolate(mask, x.shape[2:], mode="trilinear", align_corners=False)
        # An outer product gives the gate in the layout of the features, channels last; multiplied
        # by broadcasting it is laid out otherwise, and all of this takes three times as long.
        gate = torch.bmm(torch.sigmoid(mask).flatten(1)[..., None], torch.sigmoid(channel)[:, None])
        return gate.transpose(1, 2).unflatten(2, x.shape[2:])


def _average(x: Tensor, grid: torch.Size) -> Tensor:
    """Features averaged over the cells of a coarser grid: ``(B, C, Z, Y, X)`` to ``(B, C, *grid)``.

    Where the cells are whole, rows are added first, all channels of a row at once: with channels
    last that is several times as fast as pooling, and in the features' own precision.
    """
    depth, height, width = grid
    cells = [n // g for n, g in zip(x.shape[2:], grid, strict=True)]
    if any(c == 0 or n % g for c, n, g in zip(cells, x.shape[2:], grid, strict=True)):
        return F.adaptive_avg_pool3d(x, (depth, height, width))
    slices, rows, columns = cells
    by_row = x.movedim(1, -1).unflatten(2, (height, rows)).flatten(4)  # (B, Z, y, rows, X C)
    in_rows = by_row.sum(dim=3).unflatten(-1, (width, columns, -1))  # (B, Z, y, x, columns, C)
    in_cells = in_rows.unflatten(1, (depth, slices)).sum(dim=(2, 5))  # (B, z, y, x, C)
    return in_cells.movedim(-1, 1) / (slices * rows * columns)
