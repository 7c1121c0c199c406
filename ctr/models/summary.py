"""A model as a table: its layers, their shapes and how many numbers each holds, the embedding apart from the net."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ctr.models.embedding import FeatureEmbedding


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own.

    Attributes:
        name: path within the model, as in its state dict.
        kind: class name.
        shapes: parameter name -> shape.
        parameters: numbers in all of them.
        embedding: it is the table of features.
    """

    name: str
    kind: str
    shapes: dict[str, tuple[int, ...]]
    parameters: int
    embedding: bool


def layers(model: nn.Module) -> list[Layer]:
    """The layers of a model in the order in which they were made. Works on the ``meta`` device too."""
    found = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own:
            shapes = {key: tuple(p.shape) for key, p in own.items()}
            count = sum(p.numel() for p in own.values())
            is_table = isinstance(module, FeatureEmbedding)
            found.append(Layer(name or "(model)", type(module).__name__, shapes, count, is_table))
    return found


def summary(model: nn.Module) -> str:
    """A table for a reader, one line per layer; no line end behind the last.

    A model on the ``meta`` device costs no memory::

        with torch.device("meta"):  # the size of the paper without its 1 GiB table
            model = DCN(33_762_577, num_fields=26, num_dense=13)
        print(summary(model))
    """
    found = layers(model)
    net = sum(layer.parameters for layer in found if not layer.embedding)
    rows = [("layer", "kind", "shapes", "parameters")]
    rows += [(layer.name, layer.kind, _shown(layer.shapes), f"{layer.parameters:,}") for layer in found]
    rows += [
        ("embedding", "", "", f"{sum(layer.parameters for layer in found) - net:,}"),
        ("net", "", "", f"{net:,}"),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)) for row in rows]
    lines = [f"{line}  {row[3]:>{widths[3]}}" for line, row in zip(lines, rows, strict=True)]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-2], rule, *lines[-2:]])


def _shown(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(f'{size:,}' for size in shape)}" for name, shape in shapes.items())
