"""Sizes of T5 1.1 for scripts/bench.py, and the FLOPs of a training step.

Both workers import this module, so it needs the standard library only.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """A T5 1.1: gated GELU, a separate output layer, equally many encoder and decoder layers."""

    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_layers: int
    vocab_size: int = 32128

    @property
    def joined_heads(self) -> int:
        """Width of all heads together."""
        return self.num_heads * self.head_dim


# All but tiny are those of gin/models/sizes/<size>.gin.
SIZES = {
    "tiny": Size(64, 4, 16, 128, 2),
    "small": Size(512, 6, 64, 1024, 8),
    "base": Size(768, 12, 64, 2048, 12),
    "large": Size(1024, 16, 64, 2816, 24),
    "xl": Size(2048, 32, 64, 5120, 24),
    "xxl": Size(4096, 64, 64, 10240, 24),
}


def train_flops(size: Size, batch: int, inputs: int, prompt: int, targets: int) -> int:
    """Counts the FLOPs of the matrix products in one step of prompt tuning.

    With S = P + T encoder positions, J = H·C, and 2·m·k·n for a product [m, k] × [k, n]:

    * encoder layer, forward: 2BS(4DJ + 3DF) in kernels (query, key, value, out, wi_0, wi_1, wo)
      and 4BSSJ in attention (scores, and weights × values);
    * decoder layer, forward: 2BL(4DJ + 2DJ + 3DF) in kernels of target positions (self-attention;
      query and out of cross-attention; feed-forward), 2BS·2DJ in the cross-attention's key and
      value, 4BLLJ + 4BLSJ in attention;
    * logits, forward: 2BLDV;
    * backward: a frozen kernel needs the gradient of its input only, which costs as much as its
      forward product; attention needs the gradients of both factors, twice its forward products;
    * the token embedding has no gradient, so the first decoder layer needs none in its
      self-attention and its cross-attention's query kernel, and one of four products less in the
      backward pass of its cross-attention.

    Rematerialization, norms, softmax, activations and the optimizer are not counted.
    """
    length = prompt + inputs
    source, target = batch * length, batch * targets
    d, j, f = size.embed_dim, size.joined_heads, size.mlp_dim
    encoder = 2 * source * (4 * d * j + 3 * d * f)
    encoder_attention = 4 * source * length * j
    decoder_self = 2 * target * 4 * d * j
    decoder_self_attention = 4 * target * targets * j
    cross = 2 * target * 2 * d * j + 2 * source * 2 * d * j
    cross_attention = 4 * target * length * j
    feed_forward = 2 * target * 3 * d * f
    kernels = encoder + decoder_self + cross + feed_forward
    attention = encoder_attention + decoder_self_attention + cross_attention
    logits = 2 * target * d * size.vocab_size
    unneeded = decoder_self + 2 * decoder_self_attention
    unneeded += 2 * target * d * j + cross_attention // 2
    return size.num_layers * (2 * kernels + 3 * attention) + 2 * logits - unneeded


def products(size: Size, rows: int) -> list[tuple[int, int, int]]:
    """(m, k, n) of the products with query, key, value, out, wi_0, wi_1 and wo of an encoder layer."""
    d, j, f = size.embed_dim, size.joined_heads, size.mlp_dim
    shapes = [(d, j)] * 3 + [(j, d)] + [(d, f)] * 2 + [(f, d)]
    return [(rows, k, n) for k, n in shapes]


def products_flops(size: Size, rows: int) -> int:
    """Counts the FLOPs of `products`."""
    return sum(2 * m * k * n for m, k, n in products(size, rows))
