"""Models of the paper, DeepFM and logistic regression: ``(ids [B, F], dense [B, K] or None) -> logits [B]``.

They know no loss, no optimizer and no device. ``from_rows`` takes embedding rows already looked up, for training
loops that look them up themselves.
"""

from ctr.models.dcn import DCN
from ctr.models.deepfm import DeepFM
from ctr.models.embedding import Bags, FeatureEmbedding
from ctr.models.lr import LR
from ctr.models.mlp import MLP
from ctr.models.opnn import OPNN
from ctr.models.summary import summary

__all__ = ["DCN", "LR", "MLP", "OPNN", "Bags", "DeepFM", "FeatureEmbedding", "summary"]
