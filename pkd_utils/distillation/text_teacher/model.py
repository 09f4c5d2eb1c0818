"""The text teacher's settings and its network: encoder, pooling, dropout, linear head."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from pkd_utils.distillation.students import one_query
from pkd_utils.encoders.bert import load_bert, split_encoder
from pkd_utils.runs.checked import config
from pkd_utils.runs.machine import Device

DROPOUT = 0.1  # on the pooled vector, before the head


@config
class TextTeacherConfig:
    """How a text teacher is trained; of all this the paper states only that the encoder is fine-tuned.

    Attributes
    ----------
    encoder : str
        Local Hugging Face folder; the paper's is PubMedBERT. Its bytes, not its path, are part of a teacher's identity.
    trainable_layers : int
        -1: everything, embeddings included (as in the paper); k > 0: the last k blocks; 0: only the head.
    pooling : str
        "cls": the first token; "mean": the mean over a report's tokens.
    max_tokens : int
        Longer reports are cut here; the result says how many were.
    learning_rate, head_learning_rate : float
        Peak rates of AdamW for the encoder and for the linear head.
    precision : str
        "float32", or "bfloat16" for autocast.
    device : str
        "auto", "cpu" or "cuda"; not part of a teacher's identity.
    """

    encoder: str
    trainable_layers: int = Field(-1, ge=-1)
    pooling: Literal["cls", "mean"] = "mean"
    max_tokens: int = Field(256, ge=3)
    epochs: int = Field(5, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    head_learning_rate: float = Field(1e-3, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Annotated[Device, Field(validate_default=True)] = "auto"


class TextTeacher(nn.Module):
    """Encoder (frozen below, trainable above), pooling, dropout and a linear multi-label head.

    Parameters
    ----------
    config : TextTeacherConfig
    n_labels : int
        Outputs, one logit a label.
    """

    def __init__(self, config: TextTeacherConfig, n_labels: int):
        super().__init__()
        self.pooling = config.pooling
        self.lower, self.blocks = split_encoder(load_bert(config.encoder)[0], config.trainable_layers)
        self.lower_trains = config.trainable_layers == -1
        self.lower.requires_grad_(self.lower_trains)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(self.lower.config.hidden_size, n_labels)

    def train(self, mode: bool = True) -> "TextTeacher":
        """As `nn.Module.train`, but a frozen lower part stays in evaluation mode."""
        super().train(mode)
        self.lower.train(mode and self.lower_trains)
        return self

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L) int64 tokens or (B, L, D) states below the blocks, and a (B, L) bool mask -> (B, labels) logits."""
        states = inputs
        if not inputs.is_floating_point():
            states = self.lower(input_ids=inputs, attention_mask=mask.long()).last_hidden_state
        blocks = list(self.blocks)
        if self.pooling == "cls" and blocks:
            last = blocks.pop()
        for block in blocks:
            states = block(states, mask[:, None, None, :])
        if self.pooling == "cls":
            pooled = (first_token_block(last, states, mask) if self.blocks else states[:, 0]).float()
        else:
            weights = mask[:, :, None].float()
            pooled = (states.float() * weights).sum(1) / weights.sum(1)
        return self.head(self.dropout(pooled)).float()


def first_token_block(block: nn.Module, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Output of a BERT block at the first token alone, exactly, at a fraction of the block's cost: `one_query`.

    Parameters
    ----------
    block : torch.nn.Module
        A block of BERT, RoBERTa or ELECTRA as transformers builds it.
    states : torch.Tensor
        (B, L, D) float, what enters the block.
    mask : torch.Tensor
        (B, L) bool, True for tokens of the report.

    Returns
    -------
    torch.Tensor
        (B, D).
    """
    attention = block.attention.self
    split = (attention.num_attention_heads, attention.attention_head_size)
    first = states[:, :1]
    query = attention.query(first)[:, 0].unflatten(-1, split)
    key, value = (part.weight.unflatten(0, split) for part in (attention.key, attention.value))
    bias = attention.value.bias.unflatten(0, split)
    mixed = one_query(query, states, key, value, bias, mask, attention.dropout, divisor=split[1] ** 0.5)
    context = block.attention.output(mixed.flatten(1)[:, None].to(first.dtype), first)
    return block.feed_forward_chunk(context)[:, 0]
