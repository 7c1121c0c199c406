"""Small models of each kind, their optimizers, and the training step in torch that the compiled one must equal."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.datasets.stream import Batch
from ctr.models import DCN, MLP, OPNN, FeatureEmbedding
from ctr.training.compiled.step import NativeStep
from ctr.training.optimizers import make_optimizers

FEATURES, FIELDS = 300, 5
MODELS = {"dcn": DCN, "mlp": MLP, "opnn": OPNN}
# eps well above the rounding of a gradient that all but cancels, which Adam would blow up to a whole step.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "group_adam": dict(lr=3e-4, eps=1e-6, lambda1=1e-5, lambda21=0.04, lambda2=1e-4),
    "group_adagrad": dict(lr=1e-2, lambda1=1e-5, lambda21=0.03, lambda2=1e-4),
    "adam": dict(lr=3e-4, eps=1e-6),
    "adagrad": dict(lr=1e-2, initial_accumulator_value=0.1),
}


def build(name: str, dim: int = 8, dense: int = 3, seed: int = 0, **options: Any) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    embedding = FeatureEmbedding(FEATURES, dim, init_scale=0.1, generator=generator)
    return MODELS[name](FEATURES, FIELDS, dense, embedding=embedding, generator=generator, **options)


def batches(count: int, rows: int = 64, dense: int = 3, seed: int = 1, *, weighted: bool = False) -> list[Batch]:
    """Skewed ids, so that rows recur within and between batches; a click that depends on them; the last one smaller.

    Weighted: from 0 to 3, a tenth of them 0.
    """
    g = torch.Generator().manual_seed(seed)
    made = []
    effect = torch.randn(FEATURES, generator=g)
    for number in range(count):
        n = rows if number < count - 1 else rows // 2 + 1
        ids = (torch.rand(n, FIELDS, generator=g) ** 3 * FEATURES).int()
        label = (effect[ids.long()].sum(1) + torch.randn(n, generator=g) > 0).float()
        numbers = torch.randn(n, dense, generator=g) if dense else None
        weight = (torch.rand(n, generator=g) * 3.3 - 0.3).clamp(min=0) if weighted else None
        made.append(Batch(ids, numbers, label, weight))
    return made


def as_double(batch: Batch) -> Batch:
    dense, weight = (None if part is None else part.double() for part in (batch.dense, batch.weight))
    return Batch(batch.ids, dense, batch.label.double(), weight)


def native(
    model: nn.Module, opt: str = "group_adam", options: dict[str, Any] | None = None, threads: int = 2
) -> NativeStep:
    """The compiled step."""
    rows, net = make_optimizers(model, opt, OPTIMIZERS[opt] if options is None else options)
    return NativeStep(model, rows, net, threads)


class TorchTwin:
    """The eager step."""

    def __init__(self, model: nn.Module, opt: str, options: dict[str, Any]) -> None:
        self.model = model
        self.rows, self.net = make_optimizers(model, opt, options)

    def train(self, batch: Batch) -> tuple[Tensor, float]:
        self.model.train()
        logits = self.model(batch.ids, batch.dense)
        loss = F.binary_cross_entropy_with_logits(logits, batch.label)
        if batch.weight is not None:
            loss = (batch.weight * (F.softplus(logits) - logits * batch.label)).sum() / len(batch)
        loss.backward()
        for optimizer in (self.rows, self.net):
            optimizer.step()
            optimizer.zero_grad()
        return logits.detach(), loss.item()
