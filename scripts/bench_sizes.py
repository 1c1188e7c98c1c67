"""The sizes of T5 1.1 that scripts/bench.py knows, and the arithmetic that a step cannot do without.

Nothing is imported but the standard library: both workers use it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """A T5 1.1: gated GELU, an output layer of its own, as many decoder as encoder layers."""

    embed_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_layers: int
    vocab_size: int = 32128

    @property
    def joined(self) -> int:
        """Width of all heads together."""
        return self.num_heads * self.head_dim


# All but tiny as in gin/models/sizes/<size>.gin.
SIZES = {
    "tiny": Size(64, 4, 16, 128, 2),
    "small": Size(512, 6, 64, 1024, 8),
    "base": Size(768, 12, 64, 2048, 12),
    "large": Size(1024, 16, 64, 2816, 24),
    "xl": Size(2048, 32, 64, 5120, 24),
    "xxl": Size(4096, 64, 64, 10240, 24),
}


def train_flops(size: Size, batch: int, inputs: int, prompt: int, targets: int) -> int:
    """Multiplications and additions of matrix products in one step of prompt tuning.

    With S = P + T encoder positions, J = H·C, and 2·m·k·n for a product [m, k] × [k, n]:

    * encoder layer, forward: 2BS(4DJ + 3DF) in kernels (query, key, value, out, wi_0, wi_1, wo)
      and 4BSSJ in attention (scores, and weights × values);
    * decoder layer, forward: 2BL(4DJ + 2DJ + 3DF) in kernels that see targets (self-attention;
      query and out of cross-attention; feed-forward), 2BS·2DJ in the cross-attention's key and
      value, 4BLLJ + 4BLSJ in attention;
    * logits, forward: 2BLDV;
    * backward: a frozen kernel needs the gradient of its input only, as much as its forward
      product; attention needs the gradients of both factors, twice its forward products;
    * no gradient reaches the token embedding, so the first decoder layer needs none in its
      self-attention, none through the cross-attention's query kernel, and one of the four products of
      the cross-attention's backward less.

    Nothing is computed twice (no rematerialisation). Norms, softmax, activations and the optimizer are
    not counted.
    """
    rows, answers = batch * (prompt + inputs), batch * targets
    length = prompt + inputs
    d, j, f = size.embed_dim, size.joined, size.mlp_dim
    encoder = 2 * rows * (4 * d * j + 3 * d * f)
    encoder_attention = 4 * rows * length * j
    own = 2 * answers * 4 * d * j
    own_attention = 4 * answers * targets * j
    cross = 2 * answers * 2 * d * j + 2 * rows * 2 * d * j
    cross_attention = 4 * answers * length * j
    feed_forward = 2 * answers * 3 * d * f
    kernels = encoder + own + cross + feed_forward
    attention = encoder_attention + own_attention + cross_attention
    logits = 2 * answers * d * size.vocab_size
    unneeded = own + 2 * own_attention + 2 * answers * d * j + cross_attention // 2
    return size.num_layers * (2 * kernels + 3 * attention) + 2 * logits - unneeded


def products(size: Size, rows: int) -> list[tuple[int, int, int]]:
    """(m, k, n) of each kernel's product in an encoder layer: query, key, value, out, wi_0, wi_1, wo."""
    d, j, f = size.embed_dim, size.joined, size.mlp_dim
    shapes = [(d, j)] * 3 + [(j, d)] + [(d, f)] * 2 + [(f, d)]
    return [(rows, k, n) for k, n in shapes]


def products_flops(size: Size, rows: int) -> int:
    """FLOPs of `products`."""
    return sum(2 * m * k * n for m, k, n in products(size, rows))
