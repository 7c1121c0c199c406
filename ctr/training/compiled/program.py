"""A torch model as a list of the layers in ``src/layers.h``.

The models are defined in torch alone. This says how each is wired: in which columns of a sample's activation row a
layer reads and writes. Columns 0 ... F d - 1 hold the embedding rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ctr.errors import CtrError
from ctr.models import DCN, MLP, OPNN, FeatureEmbedding
from ctr.models.dcn import CrossLayers
from ctr.models.dropout import words
from ctr.models.opnn import PairProducts
from ctr.native.library import Layer

LINEAR, CROSS, PAIRS, SUPERPOSITION, HEAD = range(5)


@dataclass
class Program:
    """Layers in forward order.

    Attributes:
        fields, dim, dense: F, d and K of the input.
        offsets: where each parameter of the net starts in the flat parameters, by ``id``.
        width: columns of an activation row.
        dense_at: the dense columns' place in it.
        words: dropout words per sample.
    """

    fields: int
    dim: int
    dense: int
    offsets: dict[int, int]
    width: int = 0
    dense_at: int = 0
    words: int = 0
    layers: list[Any] = field(default_factory=list)

    def columns(self, count: int) -> int:
        """Takes this number of new columns; returns the first."""
        self.width += count
        return self.width - count

    def layer(self, kind: int, source: tuple[int, int], out: tuple[int, int], **options: int) -> None:
        options = {"bits": -1, **options}
        self.layers.append(Layer(kind=kind, in_=source[0], in_width=source[1], out=out[0], out_width=out[1], **options))

    def linear(self, module: nn.Linear, source: tuple[int, int], *, dropout: bool = False) -> tuple[int, int]:
        """A linear layer with ReLU into new columns; returns (first column, width)."""
        _fits("a linear layer", module.in_features, source[1])
        out = (self.columns(module.out_features), module.out_features)
        bits = self.words if dropout else -1
        self.words += words(module.out_features) if dropout else 0
        self.layer(LINEAR, source, out, **self.parameters(module), bits=bits)
        return out

    def head(self, module: nn.Linear, source: tuple[int, int]) -> None:
        _fits("the output layer", module.in_features, source[1])
        self.layer(HEAD, source, (0, 0), **self.parameters(module))

    def parameters(self, module: nn.Module) -> dict[str, int]:
        return {name: self.offsets[id(p)] for name, p in module.named_parameters(recurse=False)}


def _fits(what: str, takes: int, given: int) -> None:
    if takes != given:
        raise CtrError(f"{what} takes {takes} columns; this batch, or the layer before, has {given}")


def _deep(program: Program, layers: nn.Sequential, source: tuple[int, int]) -> tuple[int, int]:
    for module in layers:
        if isinstance(module, nn.Linear):
            source = program.linear(module, source)
    return source


def _mlp(model: MLP, program: Program) -> None:
    program.dense_at = program.columns(program.dense)
    program.head(model.output, _deep(program, model.deep, (0, program.width)))


def _dcn(model: DCN, program: Program) -> None:
    program.dense_at = program.columns(program.dense)
    inputs, depth = (0, program.width), len(model.cross.weight)
    scratch = program.columns(2 * depth + 1)
    _fits("the cross layers", model.cross.weight.shape[1], inputs[1])
    linears = [module for module in model.deep if isinstance(module, nn.Linear)]
    source = inputs
    for module in linears[:-1]:
        source = program.linear(module, source)
    crossed = (program.columns(inputs[1]), inputs[1])
    last = program.linear(linears[-1], source)  # in the columns beside: nothing is copied to concatenate them
    # Backward runs the other way: the deep layers leave the gradient of the input, then the cross layers add theirs.
    cross = dict(kind=CROSS, in_=0, in_width=inputs[1], out=crossed[0], out_width=crossed[1], extra=depth, add=1)
    program.layers.insert(0, Layer(scratch=scratch, bits=-1, **cross, **program.parameters(model.cross)))
    program.head(model.output, (crossed[0], crossed[1] + last[1]))


def _opnn(model: OPNN, program: Program) -> None:
    rows = (0, program.width)
    products = program.dim**2 if model.pairs is None else program.fields * (program.fields - 1) // 2
    out = (program.columns(products), products)
    program.dense_at = program.columns(program.dense)
    if model.pairs is None:
        program.layer(SUPERPOSITION, rows, out, extra=program.dim, add=1)
    else:
        _fits("the products", model.pairs.weight.shape[1], products)
        program.layer(PAIRS, rows, out, extra=program.dim, add=1, **program.parameters(model.pairs))
    source = (0, program.width)
    for module in model.hidden:
        assert isinstance(module, nn.Linear)
        source = program.linear(module, source, dropout=model.dropout > 0)
    program.head(model.output, source)


_MODELS: dict[type[nn.Module], Callable[[Any, Program], None]] = {MLP: _mlp, DCN: _dcn, OPNN: _opnn}


def translatable(model: nn.Module) -> bool:
    """Whether `translate` knows the model: one of ours, with the layers that its class gives it, each used once and
    doing nothing else."""
    if type(model) not in _MODELS or not (_table_as_built(model) and _net_as_built(model)):
        return False
    everywhere = list(model.named_parameters(remove_duplicate=False))
    if len(everywhere) != len(list(model.parameters())):  # each place would take the gradient of the other
        return False
    return not any(map(_hooked, model.modules())) and not any(_watched(p) for _, p in everywhere)


def _table_as_built(model: nn.Module) -> bool:
    table = getattr(model, "embedding", None)
    if type(table) is not FeatureEmbedding:
        return False
    seen = table.seen
    return seen.shape == table.weight.shape[:1] and seen.dtype == torch.bool and seen.is_contiguous()


def _net_as_built(model: Any) -> bool:
    if isinstance(model, OPNN):
        linears, dim = list(model.hidden), model.embedding.weight.shape[1]
        pairs = model.pairs
        known = pairs is None or (type(pairs) is PairProducts and pairs.weight.shape[::2] == (dim, dim))
    else:
        layers = list(model.deep) if type(model.deep) is nn.Sequential else []
        linears = layers[::2]
        known = [type(layer) for layer in layers[1::2]] == [nn.ReLU] * len(linears)
    if isinstance(model, DCN):
        cross = model.cross
        known &= type(cross) is CrossLayers and cross.weight.shape == cross.bias.shape and len(cross.weight) > 0
    known &= len(linears) > 0
    known &= all(type(layer) is nn.Linear and layer.bias is not None for layer in [*linears, model.output])
    return bool(known and model.output.out_features == 1)


def _hooked(module: nn.Module) -> bool:
    """Whether it does more, or other things, than its class."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or bool({"forward", "from_rows", "draw"} & vars(module).keys())


def _watched(parameter: nn.Parameter) -> bool:
    return bool(parameter._backward_hooks) or bool(getattr(parameter, "_post_accumulate_grad_hooks", None))


def translate(model: nn.Module, offsets: dict[int, int], fields: int, dense: int) -> Program:
    """The model's layers.

    Args:
        model: a model for which `translatable` is true.
        offsets: place of each parameter in the flat parameters, by ``id``.
        fields, dense: ids and dense columns per row.
    """
    dim = model.get_parameter("embedding.weight").shape[1]
    program = Program(fields, dim, dense, offsets)
    program.columns(fields * dim)
    _MODELS[type(model)](model, program)
    return program
