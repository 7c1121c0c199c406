"""Models of the paper: ``(ids [B, F], dense [B, K] or None) -> logits [B]``.

They know no loss, no optimizer and no device. ``from_rows`` takes embedding rows already looked up, for training
loops that look them up themselves.
"""

from ctr.models.dcn import DCN
from ctr.models.embedding import FeatureEmbedding
from ctr.models.mlp import MLP
from ctr.models.opnn import OPNN
from ctr.models.summary import summary

__all__ = ["DCN", "MLP", "OPNN", "FeatureEmbedding", "summary"]
