"""Models as flat parameter vectors: softmax regression, or any torch.nn.Module."""

from __future__ import annotations

import torch
from torch import nn

from crfl.errors import DataError
from crfl.models.base import Model
from crfl.models.checks import check_module, plain_layer
from crfl.models.module import ModuleModel
from crfl.models.softmax import SoftmaxRegression

__all__ = ["Model", "ModuleModel", "SoftmaxRegression", "make_model"]


def make_model(model: Model | nn.Module | None, num_features: int, num_classes: int, bias: bool = True) -> Model:
    """The model to train.

    Args:
        model: None for softmax regression; a module, wrapped, of which a torch.nn.Linear that is trained whole is softmax
            regression that starts at its parameters; or a Model.
        num_features: d
        num_classes: C
        bias: whether softmax regression has one, if `model` is None.

    Returns:
        The model.

    Raises:
        DataError: the model does not map num_features to num_classes, or cannot be trained.

    Example:
        >>> make_model(None, num_features=64, num_classes=10)
        SoftmaxRegression(num_features=64, num_classes=10, bias=True)
    """
    if model is None:
        return SoftmaxRegression(num_features, num_classes, bias)
    if isinstance(model, nn.Module):
        linear = plain_layer(model)
        if linear is None or (linear.in_features, linear.out_features) != (num_features, num_classes):
            return ModuleModel(model, num_features, num_classes)
        check_module(model, num_features)
        start = torch.cat([p.detach().float().cpu().flatten() for p in linear.parameters()])
        return SoftmaxRegression(num_features, num_classes, linear.bias is not None, start)
    shape = getattr(model, "num_features", None), getattr(model, "num_classes", None)
    if shape != (num_features, num_classes):
        raise DataError(
            f"model: got {model!r}, expected a torch.nn.Module, or a model of {num_features} features and "
            f"{num_classes} classes"
        )
    return model
