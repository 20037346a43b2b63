"""The image encoder of the SAM attention: one pass over the CT, one embedding for every block.

After the encoder of Segment Anything (Kirillov et al., ICCV 2023): a vision transformer over
patches of 16 x 16 pixels with learned positions, as in Lin and Zhang (Advances in Clinical
Medicine 16(3), 2026). Planning CT is a volume, so a patch here is also a few slices deep.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.blocks import attend


class TransformerBlock(nn.Module):
    """norm, self-attention, add; norm, MLP, add. Shapes: ``(B, N, D)`` in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        x = x + self.out(attend(q, k, v, self.heads))
        return x + self.mlp(self.norm_mlp(x))


class VitEncoder(nn.Module):
    """A vision transformer over patches of the volume, with learned positions.

    Shapes: ``(B, 1, Z, Y, X)`` in, ``(B, D, Z / pz, Y / py, X / px)`` out, for sides that are
    multiples of the patch. Positions are learned on ``position_grid`` and interpolated to
    the grid of the input, so any tile size works.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: tuple[int, int, int] = (4, 16, 16),
        position_grid: tuple[int, int, int] = (12, 4, 5),
    ) -> None:
        super().__init__()
        self.width = width
        self.patch = patch
        self.embed = nn.Conv3d(1, width, kernel_size=patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, width, *position_grid))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        if any(side % p for side, p in zip(x.shape[2:], self.patch, strict=True)):
            raise ValueError(f"sides {(*x.shape[2:],)} must be multiples of {self.patch}")
        patches = self.embed(x)  # (B, D, z, y, x)
        grid = patches.shape[2:]
        positions = F.interpolate(self.positions, grid, mode="trilinear", align_corners=False)
        tokens = (patches + positions).flatten(2).transpose(1, 2)  # (B, N, D)
        tokens = self.norm(self.blocks(tokens))
        return tokens.transpose(1, 2).unflatten(2, grid)
