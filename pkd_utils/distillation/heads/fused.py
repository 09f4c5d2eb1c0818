"""Many attention heads on the same tokens at once: the textbook's numbers (`modules.py`) for a quarter of its work.

With x the normalised tokens before gain and bias, a head's scores are x M x' + u x' plus terms that are constant over
keys, which the softmax cancels; M = diag(gamma) Wq' Wk diag(gamma) / sqrt(D), u from the query's bias and beta. The
key's bias drops out. Averaging over queries first leaves one weight a token, so the value map acts on one vector an
image. That is one D x D product a token instead of three. Tokens are frozen: they need no gradient, and backward is
x' (dS x).

The parameters are those of the textbook modules, and Adam moves them; M is formed from them in every step. Heads that
share a minibatch share its tokens, their normalisation, and one matrix product over all M, one below the other.

Products of float32 go to oneDNN, twice as fast as the default (MKL) on AMD processors and the same arithmetic. On
Intel's MKL is as fast or faster, and everywhere small products, one an image, go to it in one call.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from pkd_utils.distillation.heads.modules import AttentionHead, LinearProbe, PrivilegedTeacher, TokenAttention
from pkd_utils.runs.machine import multiplied_by_onednn

TILE_BYTES = {"cpu": 16 << 20, "gpu": 1 << 30}
"""Intermediate results are made tile by tile (images x heads) of about this size; on a CPU it should fit the cache."""
TILE_HEADS = 4
"""Heads in a tile at most: the gradient of their M is added to tile after tile, and should stay in the cache too."""

TILE_REPORTS = 8
"""Reports in a tile at most; a tile is as long as its longest report."""
TEXT_STEP = 16  # reports are padded to a multiple: few shapes, so few kernels to prepare
LARGE = 1 << 23
"""Multiplications of a product from which oneDNN's gain is more than what a call of it for each image costs."""


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (M, K) times the transpose of b (N, K); no gradient."""
    if multiplied_by_onednn(a):
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return a @ b.mT


def batched_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (B, M, K) times the transposes of b (B, N, K); no gradient."""
    if multiplied_by_onednn(a) and a[0].numel() * b.shape[1] >= LARGE:
        return torch.stack([product(x, y) for x, y in zip(a, b, strict=True)])
    return torch.bmm(a, b.mT)


class _Product(torch.autograd.Function):
    """`product` with gradients."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return product(a, b)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return product(grad, b.mT), product(grad.mT, a.mT)


class _KeysTimesQueries(torch.autograd.Function):
    """Wk' Wq with gradients, which are made in the layout of the weights: nothing is copied to be transposed."""

    @staticmethod
    def forward(ctx, key, query):
        ctx.save_for_backward(key, query)
        return product(key.mT, query.mT)

    @staticmethod
    def backward(ctx, grad):
        key, query = ctx.saved_tensors
        return product(query, grad), product(key, grad.mT)


def fold(attention: TokenAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """M' (D, D) and u (D,) of one head, such that its scores are (x M + u) x'. Differentiable."""
    gain, bias = attention.norm.weight, attention.norm.bias
    key, query = attention.key.weight, attention.query.weight
    scale = 1 / math.sqrt(key.shape[0])
    m = _KeysTimesQueries.apply(key, query) * gain[:, None] * (gain * scale)
    u = (attention.query(bias) @ key) * (gain * scale)
    return m, u


class PooledAttention(torch.autograd.Function):
    """H heads: mean over queries of the attention weights times the tokens, with the gradient to M and u.

    Inputs: x (B, N, D) normalised tokens; m (H * D, D) and u (H * D,), one head's M' below the other's; mask (B, N)
    bool or None; keep (B, N, N) bool or None (no dropout); p, dropout's probability; dtype of the products.

    Outputs: pooled (B, H, D) = sum_j a_j x_j, total (B, H) = sum_j a_j (1 without dropout), a_j the mean over queries.
    """

    @staticmethod
    def forward(ctx, x, m, u, mask, keep, p, dtype):
        """Pooled tokens and totals, tile by tile; keeps the softmax for the gradient."""
        batch, n_tokens, width = x.shape
        n_heads = len(u) // width
        x_low, m_low = x.to(dtype), m.to(dtype)
        if mask is None:
            query_weight = x.new_full((batch, 1, n_tokens), 1 / n_tokens)
        else:
            query_weight = (mask.to(x.dtype) / mask.sum(1, keepdim=True))[:, None, :]
        pooled, total = x.new_empty(batch, n_heads, width), x.new_empty(batch, n_heads)
        ctx.tiles = []  # images, heads, tokens, their softmax
        for images, heads, tokens in _tiles(x, n_heads, mask):
            rows, columns = x_low[images, tokens], slice(heads.start * width, heads.stop * width)
            n, h, length = len(rows), heads.stop - heads.start, rows.shape[1]
            z = product(rows.reshape(-1, width), m_low[columns])
            scores = batched_product(z.view(n, length * h, width), rows).view(n, length, h, length)
            # u x' is one number a key and head: here it is added to N numbers a query, in z it would be to D.
            scores += (x[images, tokens] @ u[columns].view(h, width).mT).mT[:, None]
            if mask is not None:
                scores = scores.masked_fill_(~mask[images, None, None, tokens], -math.inf)
            weights = torch.softmax(scores, -1, dtype=x.dtype)
            if m.requires_grad:
                ctx.tiles.append((images, heads, tokens, weights))
            if keep is not None:
                weights = weights * _scale(keep[images, tokens, tokens], p, x.dtype)
            mean = query_weight[images, :, tokens]
            a = torch.bmm(mean, weights.view(n, length, h * length)).view(n, h, length)
            pooled[images, heads] = torch.bmm(a, x[images, tokens])
            total[images, heads] = a.sum(-1)
        ctx.p, ctx.dtype, ctx.n_heads = p, dtype, n_heads
        ctx.save_for_backward(x, keep, query_weight)
        return pooled, total

    @staticmethod
    def backward(ctx, d_pooled, d_total):
        """Gradient to m and u; x is frozen and gets none."""
        x, keep, query_weight = ctx.saved_tensors
        width = x.shape[2]
        x_low = x.to(ctx.dtype)
        dm, du = x.new_zeros(width, ctx.n_heads * width), x.new_zeros(ctx.n_heads * width)  # dm transposed
        for images, heads, tokens, weights in ctx.tiles:
            rows, columns = x_low[images, tokens], slice(heads.start * width, heads.stop * width)
            n, h, length = len(rows), heads.stop - heads.start, rows.shape[1]
            da = torch.baddbmm(d_total[images, heads, None], d_pooled[images, heads], x[images, tokens].mT)
            # Softmax backward: dS = Q - P sum(Q), Q = P keep da; and each query counts by its weight in the mean.
            ds = weights * da[:, None]
            if keep is not None:
                ds.mul_(_scale(keep[images, tokens, tokens], ctx.p, x.dtype))
            ds.addcmul_(weights, ds.sum(-1, keepdim=True), value=-1).mul_(query_weight[images, 0, tokens, None, None])
            r = batched_product(ds.view(n, length * h, length).to(ctx.dtype), rows.mT).view(-1, h * width)
            if heads.start == 0:  # of all heads in the tiles of these images
                transposed = rows.reshape(-1, width).mT.contiguous()
            dm[:, columns] += product(transposed, r.mT)
            du[columns] += torch.bmm(ds.sum(1), x[images, tokens]).sum(0).view(-1)
        return None, dm.mT, du, None, None, None, None


def _scale(keep: torch.Tensor, p: float, dtype: torch.dtype) -> torch.Tensor:
    """What dropout multiplies the weights (n, N, H, N) by: 0 or 1 / (1 - p)."""
    return keep[:, :, None, :].to(dtype).div_(1 - p)


def _tiles(x: torch.Tensor, n_heads: int, mask: torch.Tensor | None) -> list[tuple[slice, slice, slice]]:
    """Slices of images, of heads and of tokens whose intermediate results fit `TILE_BYTES`.

    With a mask tiles are small and end where all their rows are padding: little is wasted where neighbours are of
    similar length.
    """
    batch, n_tokens, width = x.shape
    one = n_tokens * (width + n_tokens) * x.element_size()  # an image and a head
    units = max(1, TILE_BYTES["cpu" if x.device.type == "cpu" else "gpu"] // one)
    h = min(n_heads, TILE_HEADS, units)
    n = max(1, min(batch, units // h, batch if mask is None else TILE_REPORTS))
    tiles = []
    for i in range(0, batch, n):
        longest = n_tokens if mask is None else int(mask[i : i + n].any(0).nonzero().max()) + 1
        tokens = slice(0, min(n_tokens, -(-longest // TEXT_STEP) * TEXT_STEP))
        images = slice(i, min(i + n, batch))
        tiles += [(images, slice(j, min(j + h, n_heads)), tokens) for j in range(0, n_heads, h)]
    return tiles


class Inputs(NamedTuple):
    """What heads read of B rows; None where no head of the group reads it.

    `image` (B, N, D) and `text` (B, L, D_t), with `text_mask` (B, L), are `normalised`, and so are `image_mean` (B, D)
    and `class_token` (B, D), which only probes read.
    """

    image: torch.Tensor | None = None
    text: torch.Tensor | None = None
    text_mask: torch.Tensor | None = None
    image_mean: torch.Tensor | None = None
    class_token: torch.Tensor | None = None

    def part(self, rows: slice) -> "Inputs":
        return Inputs(*(None if item is None else item[rows] for item in self))


class Keeps(NamedTuple):
    """Dropout's masks for image (B, N, N) and text (B, L, L), shared by all heads; None: no dropout."""

    image: torch.Tensor | None = None
    text: torch.Tensor | None = None

    def part(self, rows: slice) -> "Keeps":
        return Keeps(*(None if item is None else item[rows] for item in self))


NO_DROPOUT = Keeps()


class HeadGroup:
    """Heads that see the same minibatches, computed together.

    `heads` are textbook modules, which stay their owners; their `methods` say whether an `AttentionHead` reads image or
    text. `dtype` is that of the large products: None, that of the tokens; torch.bfloat16, with softmax, sums and
    everything else in float32.
    """

    def __init__(self, heads: Sequence[nn.Module], methods: Sequence[str], dtype: torch.dtype | None = None):
        self.heads, self.dtype = list(heads), dtype
        self.image: list[TokenAttention] = []
        self.text: list[TokenAttention] = []
        self.methods = list(methods)
        for head, method in zip(self.heads, self.methods, strict=True):
            if isinstance(head, PrivilegedTeacher):
                self.image.append(head.image_attention)
                self.text.append(head.text_attention)
            elif isinstance(head, AttentionHead):
                (self.text if method == "text_only" else self.image).append(head.attention)

    def parameters_by_head(self) -> list[list[nn.Parameter]]:
        """What is trained: all but the keys' biases, which the softmax cancels."""
        return [[p for n, p in head.named_parameters() if not n.endswith("key.bias")] for head in self.heads]

    def parameters(self) -> list[nn.Parameter]:
        return [p for parameters in self.parameters_by_head() for p in parameters]

    def bytes_per_row(self, inputs: Inputs) -> int:
        """Memory that training needs for each row of the minibatch, without its tokens: attention weights."""
        pairs = ((self.image, inputs.image), (self.text, inputs.text))
        return sum(len(heads) * x.shape[1] ** 2 * x.element_size() for heads, x in pairs if heads)

    def fold(self) -> list[torch.Tensor | None]:
        """[image M, image u, text M, text u] of all heads, one below the other; None where no head reads that input."""
        folded: list[torch.Tensor | None] = []
        for attentions in (self.image, self.text):
            pairs = [fold(attention) for attention in attentions]
            folded += [torch.cat(parts) for parts in zip(*pairs, strict=True)] if pairs else [None, None]
        return folded

    def logits(self, folded: Sequence[torch.Tensor | None], inputs: Inputs, keeps: Keeps = NO_DROPOUT) -> torch.Tensor:
        """Logits (B, H, C) of all heads; `folded` as from `fold`."""
        image_pooled = iter(self._attend(self.image, folded[:2], inputs.image, None, keeps.image))
        text_pooled = iter(self._attend(self.text, folded[2:], inputs.text, inputs.text_mask, keeps.text))
        answers = []
        for head, method in zip(self.heads, self.methods, strict=True):
            if isinstance(head, LinearProbe):
                mean = inputs.class_token if method == "cls_probe" else inputs.image_mean
                answers.append(head.classifier(mean * head.norm.weight + head.norm.bias))
            elif isinstance(head, PrivilegedTeacher):
                answers.append(head.classify(next(image_pooled), next(text_pooled)))
            else:
                answers.append(head.classify(next(text_pooled if method == "text_only" else image_pooled)))
        return torch.stack(answers, 1)

    def _attend(self, attentions, folded, x, mask, keep) -> list[torch.Tensor]:
        """The pooled vector (B, D) of each attention."""
        if not attentions:
            return []
        dropout = attentions[0].dropout
        pooled, total = PooledAttention.apply(x, *folded, mask, keep, dropout, self.dtype or x.dtype)
        answers = []
        for i, attention in enumerate(attentions):
            norm, value, weight = attention.norm, attention.value, total[:, i, None]
            mean = pooled[:, i] * norm.weight + weight * norm.bias
            answers.append(_Product.apply(mean, value.weight) + weight * value.bias)
        return answers


def normalised(tokens: torch.Tensor) -> torch.Tensor:
    """Layer norm without gain and bias, which all heads on these tokens share; (..., D) of any float type to float32
    (float64 stays)."""
    tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
    return F.layer_norm(tokens, tokens.shape[-1:])
