"""What a module must be to be trained: parameters that are real numbers, and logits that depend on them and the samples.

Training, certification and both engines take a module for a function of parameters and samples. What is no such
function is refused before anything is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.parameter import is_lazy

from crfl.errors import DataError

TOLERANCE = 1e-3
"""By how much logits may differ from call to call, relative to the largest."""


def check_module(module: nn.Module, num_features: int) -> None:
    """DataError, which names the submodule, parameter or buffer, unless its state is one that crfl can train."""
    name = type(module).__name__
    for problem in _problems(module, num_features):
        raise DataError(f"model: got {name}, {problem}")
    if not any(p.requires_grad for p in module.parameters()):
        raise DataError(f"model: got {name}, which has no parameters to train, expected some with requires_grad")


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy of a module in float32 and eval mode; DataError if it cannot be copied."""
    try:
        return copy.deepcopy(module).eval().requires_grad_(False).float()
    except Exception as error:  # such as tensors that an old weight_norm keeps beside its parameters
        raise DataError(
            f"model: got {type(module).__name__}, which copy.deepcopy cannot copy ({_first_line(error)}), expected one "
            "that it can"
        ) from None


def converted(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The module itself on a device, its floating-point numbers as float32 or float64; complex ones stay complex."""
    module = module.to(device)  # with a dtype, it would cut off imaginary parts
    return module.double() if dtype == torch.float64 else module.float()


def check_function(
    module: nn.Module, logits: Callable[[Tensor, Tensor], Tensor], params: Tensor, num_features: int, num_classes: int
) -> None:
    """DataError unless the logits (m, C) are a differentiable function of samples (m, d) and parameters (P,).

    `module` is in eval mode; `logits` is its function of parameters and samples. It is tried on random samples.
    """
    name, generator = type(module).__name__, torch.Generator().manual_seed(0)
    x = torch.rand(3, num_features, generator=generator, dtype=torch.float32).to(params.device)
    shape: object
    try:
        written = _written(module, x)
        out = logits(params, x.clone())  # a copy, should the module work in place
        shape = tuple(out.shape)
    except Exception as error:  # whatever the module raises of features that it does not fit
        written, out, shape = [], x, _first_line(error)
    if shape != (3, num_classes):
        raise DataError(
            f"model: got {name}, which makes {shape} of features (3, {num_features}), expected logits (3, {num_classes}); "
            "torch.nn.Unflatten turns features into images"
        )
    if written:
        raise DataError(
            f"model: got {name}, whose buffer {written[0]!r} changes when it is called in eval mode, expected a function "
            "of parameters and samples alone"
        )
    if not out.is_floating_point():
        raise DataError(f"model: got {name}, which makes logits of {out.dtype}, expected floating-point numbers")
    try:
        together = vmap(vmap(grad(lambda p, some: logits(p, some.clone()).sum()), in_dims=(0, None)))(
            params.expand(2, 2, -1), x.expand(2, 3, -1)
        )
        again = logits(params, x.clone())
    except Exception as error:  # whatever torch.func cannot do
        raise DataError(
            f"model: got {name}, which torch.func cannot differentiate for many clients together ({_first_line(error)}), "
            "expected a module of differentiable operations, without random numbers in eval mode or numbers read by .item()"
        ) from None
    if together.shape != (2, 2, len(params)):
        raise DataError(
            f"model: got {name}, whose gradient has shape {tuple(together.shape)}, expected {(2, 2, len(params))}"
        )
    size = float(out.abs().max()) * TOLERANCE
    if bool(((again - out).abs() > size).any()):
        raise DataError(
            f"model: got {name}, whose logits differ from call to call, expected none of chance in eval mode"
        )


def plain_layer(module: nn.Module) -> nn.Linear | None:
    """The torch.nn.Linear that is all of a module and is trained whole; None if it is something else."""
    while type(module) is nn.Sequential and len(module) == 1 and not _has_hooks(module):
        module = module[0]
    if type(module) is not nn.Linear or _has_hooks(module) or "forward" in vars(module):
        return None
    names = {name for name, _ in module.named_parameters()}
    whole = names <= {"weight", "bias"} and all(p.requires_grad for p in module.parameters())
    return module if whole else None


def _problems(module: nn.Module, num_features: int) -> Iterator[str]:
    for path, part in module.named_modules():
        where = f"whose part {path!r} is" if path else "which is"
        if isinstance(part, torch.jit.ScriptModule):
            yield f"{where} compiled by torch.jit, expected a plain torch.nn.Module"
        if hasattr(part, "_orig_mod"):
            yield f"{where} compiled by torch.compile, expected the module before it was compiled"
        if type(part).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            yield f"{where} quantised ({type(part).__name__}), expected floating-point layers"
    for kind, name, tensor in chain(
        (("parameter", *item) for item in module.named_parameters()),
        (("buffer", *item) for item in module.named_buffers()),
    ):
        where = f"whose {kind} {name!r}"
        if is_lazy(tensor):
            yield (
                f"{where} has no shape yet, expected a module that was called once, as module(torch.zeros(2, "
                f"{num_features}))"
            )
        elif tensor.is_meta:
            yield f"{where} is on the device meta, expected one that holds numbers"
        elif tensor.is_quantized:
            yield f"{where} is quantised ({tensor.dtype}), expected floating-point numbers"
        elif tensor.is_nested or tensor.layout is not torch.strided:
            yield f"{where} is nested or sparse, expected a dense tensor"
        elif tensor.requires_grad and not tensor.is_floating_point():
            yield f"{where} is of {tensor.dtype}, expected real floating-point numbers, or one that is frozen"
        elif tensor.requires_grad and not torch.isfinite(tensor.detach().float()).all():
            yield f"{where} has numbers that are not finite in float32, expected finite ones"


def _written(module: nn.Module, x: Tensor) -> list[str]:
    """The buffers that change when a copy of the module is called."""
    tried = converted(copy.deepcopy(module), x.device, x.dtype)
    before = {name: buffer.clone() for name, buffer in tried.named_buffers()}
    with torch.no_grad():
        tried(x.clone())
    after = dict(tried.named_buffers())
    same = {name for name, b in before.items() if name in after and _equal(b, after[name])}
    return sorted((before.keys() | after.keys()) - same)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


def _first_line(error: Exception) -> str:
    """The beginning of what torch says, on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:197] + "..."
