"""The heads of Bergström et al. (section 2.2, appendix A), as one writes them down: what is trained on frozen tokens.

An image encoder V gives N tokens of D numbers an image, a text encoder T one token a word piece. On them the paper puts
layer normalisation, one single-head self-attention with learnable linear queries, keys and values, the mean over
tokens, and one linear classifier. The teacher does so for image and text apart, normalises both pooled vectors,
concatenates them and classifies. `heads/fused.py` computes the same numbers for many heads at once.
"""

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pkd_utils.runs.checked import checked
from pkd_utils.runs.seeds import stream

Method = Literal["image_only", "image_restart", "self_distilled", "self_restart", "permuted_distilled",
                 "report_distilled", "teacher", "text_only", "mean_probe", "cls_probe"]  # fmt: skip
METHODS = get_args(Method)
PROBES = ("mean_probe", "cls_probe")
READS_TEXT = ("teacher", "text_only")
TEACHER_OF = {"self_distilled": "image_only", "self_restart": "image_restart", "permuted_distilled": "teacher",
              "report_distilled": "teacher"}  # fmt: skip
DISTILLED = tuple(TEACHER_OF)
TEACHES = tuple(dict.fromkeys(TEACHER_OF.values()))  # methods that students may learn from


class TokenAttention(nn.Module):
    """Layer norm, single-head self-attention, mean over tokens.

    Queries, keys and values have as many numbers as a token, D, and scores are divided by sqrt(D); not stated in the
    paper. The three linear maps have biases, torch's default; not stated in the paper. Dropout acts on the attention
    weights, before they multiply the values (appendix A: 0.2).
    """

    def __init__(self, width: int, dropout: float = 0.2):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dropout = dropout

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pool tokens (B, N, D) to (B, D).

        `mask` (B, N) bool: False for padding, which neither attends, nor is attended to, nor counts in the mean.
        `keep` (B, N, N) bool: the attention weights that dropout keeps; without it torch draws them while training.
        """
        tokens = self.norm(tokens)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        scores = query @ key.mT / math.sqrt(key.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, :], -math.inf)
        weights = scores.softmax(-1)
        if keep is None:
            weights = F.dropout(weights, self.dropout, self.training)
        else:
            weights = weights * keep / (1 - self.dropout)
        attended = weights @ value
        if mask is None:
            return attended.mean(1)
        return (attended * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class AttentionHead(nn.Module):
    """Attention over the tokens of one input, then a linear classifier: image-only f, its students, and text-only.

    Logits are (B, n_classes); a yes-or-no task has two classes.
    """

    def __init__(self, width: int, n_classes: int, dropout: float = 0.2):
        super().__init__()
        self.attention = TokenAttention(width, dropout)
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, tokens, mask=None, keep=None) -> torch.Tensor:
        """Logits (B, C) of tokens (B, N, D); `mask` and `keep` as for `TokenAttention`."""
        return self.classify(self.attention(tokens, mask, keep))

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.classifier(pooled)


class PrivilegedTeacher(nn.Module):
    """g of equation (1): image tokens and report tokens, each with an attention of its own, and one linear classifier.

    Both pooled vectors are normalised before they are concatenated (appendix A).
    """

    def __init__(self, image_width: int, text_width: int, n_classes: int, dropout: float = 0.2):
        super().__init__()
        self.image_attention = TokenAttention(image_width, dropout)  # first: starts as an image-only head of its seed
        self.text_attention = TokenAttention(text_width, dropout)
        self.image_norm = nn.LayerNorm(image_width)
        self.text_norm = nn.LayerNorm(text_width)
        self.classifier = nn.Linear(image_width + text_width, n_classes)

    def forward(self, tokens, text, text_mask, keep=None, text_keep=None) -> torch.Tensor:
        """Logits (B, C) of image tokens (B, N, D), text tokens (B, L, D_t) and the text's mask (B, L)."""
        image = self.image_attention(tokens, keep=keep)
        return self.classify(image, self.text_attention(text, text_mask, text_keep))

    def classify(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.cat([self.image_norm(image), self.text_norm(text)], 1))


class LinearProbe(nn.Module):
    """Linear probing (appendix C.1) of the tokens' mean or of the class token.

    Layer norm comes first, as appendix A has it for every encoder's features; that it holds for the probes too is not
    stated in the paper.
    """

    def __init__(self, width: int, n_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of tokens (B, N, D); the class token is (B, 1, D)."""
        return self.classifier(self.norm(tokens).mean(1))


@checked
def build_head(
    method: Method,
    n_classes: int,
    image_width: int,
    text_width: int | None = None,
    seed: int = 0,
    dropout: float = 0.2,
) -> nn.Module:
    """A new head of one of the `METHODS`, initialised as torch does by default, from `seed` alone.

    Heads of one seed start from the same image attention, so methods differ in nothing but what they learn from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, 0))
        if method == "teacher":
            return PrivilegedTeacher(image_width, text_width, n_classes, dropout)
        if method in PROBES:
            return LinearProbe(image_width, n_classes)
        return AttentionHead(text_width if method == "text_only" else image_width, n_classes, dropout)


def dropout_keep(shape: tuple[int, ...], probability: float, *key: int) -> torch.Tensor:
    """Dropout's mask, on the CPU: True (keep) with 1 - `probability` (met to 1/65536), on every device the same.

    It is a function of `key` alone: non-negative integers such as seed, epoch, step.
    """
    count = math.prod(shape)
    # 16 bits a draw from a fast counter-seeded generator: ten times faster than torch's bernoulli_.
    bits = np.random.SFC64(np.random.SeedSequence(key)).random_raw((count + 3) // 4).view(np.uint16)[:count]
    return torch.from_numpy(bits >= round(probability * 65536)).reshape(shape)
