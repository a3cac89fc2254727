"""Matrix products in float32 at the full speed of the processor.

On a processor with AVX-512, torch's products (by MKL) use half of the vector width unless Intel made it; its
convolutions (by oneDNN) use all of it. A product is a convolution whose kernel covers one position, a batch of products
one with a group for each: on AMD's processors up to three times as fast, from Zen 5 on. (Zen 4 computes 512 bits in two
halves: only large products gain there.) On other processors, on an accelerator, and for shapes that gain nothing, these
functions are torch's products. Both ways agree up to the rounding of float32.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional


def _processor(about: Path = Path("/proc/cpuinfo")) -> tuple[str, int]:
    """Maker and family of the processor, as Linux says; "" and 0 if it does not."""
    said = about.read_text(encoding="utf-8", errors="replace") if about.is_file() else ""
    found = [re.search(rf"^{key}\s*:\s*(\S+)", said, re.MULTILINE) for key in ("vendor_id", "cpu family")]
    maker, family = (match[1] if match else "" for match in found)
    return maker, int(family) if family.isdecimal() else 0


AVX512 = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether the processor has the vectors that make convolutions the faster products, where MKL does not use them."""
MAKER, FAMILY = _processor()
WIDE = AVX512 and MAKER != "GenuineIntel"
"""Whether products may be convolutions."""
WIDE_BATCHES = WIDE and FAMILY >= 26  # Zen 5
"""Whether batches of small products may be, too."""
DILATION = 2
"""Without meaning for one position, but torch leaves oneDNN out without it when it has a single thread."""
BLOCKS = 4
"""Of kernels of which both sides are multiples of this, oneDNN makes blocks, which takes longer than the product."""
PIECE_BYTES = 2**20
"""Of the rows that one product takes at a time, beside others: about what the cache of a core holds."""
PIECES = 4
"""Pieces that products take at a time. A few side by side are faster than a product of few rows by many, in MKL."""
LONG = 400
"""Shorter rows are not worth the copy of the pieces' results."""


def inner(a: Tensor, b: Tensor) -> Tensor:
    """a b^T (r, n), contiguous, of a (r, d) and b (n, d)."""
    (r, d), n = a.shape, len(b)
    if _convolves(a) and min(r, n) >= 8 and max(r, n) >= 500 and r * n * d >= 2**24:
        if r < n:
            return inner(b, a).mT.contiguous()
        image = a.contiguous().view(1, 1, r, d).permute(0, 3, 1, 2)  # channels last, and so is the result
        return functional.conv2d(image, b.reshape(n, d, 1, 1), dilation=DILATION)[0, :, 0].mT.contiguous()
    size = _piece(b, b.dtype)
    if not (a.is_cpu and a.dtype is torch.float32 and d >= LONG and n >= PIECES * size):
        return a @ b.mT
    whole = n - n % size
    found = a @ b[:whole].view(-1, size, d).mT
    return torch.cat([found.transpose(0, 1).flatten(1), a @ b[whole:].mT], dim=1)


def pieces(x: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, int]]:
    """Which rows of x (n, d) to take at a time in that type, and how many of them are a piece.

    What is taken at a time stays in the cache from one product to the next.
    """
    n, size = len(x), _piece(x, dtype)
    whole = n - n % size
    for start in range(0, whole, PIECES * size):
        yield slice(start, min(start + PIECES * size, whole)), size
    if whole < n:
        yield slice(whole, n), n - whole


def is_one_piece(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether x (n, d) is."""
    return x.is_cpu and len(x) <= _piece(x, dtype)


def aligned(a: Tensor) -> Tensor:
    """The same numbers in a row, from where memory of their own would begin: at a multiple of 64 bytes.

    The bits of a product by MKL depend on where its factors begin; of one among many, on how large the others are.
    """
    a = a.contiguous()
    return a if a.data_ptr() % 64 == 0 else a.clone()


def batched_affine(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    """alpha a b^T + c (k, r, n) of a (k, r, d), b (k, n, d) and c (k, r, 1)."""
    (k, r, d), n = a.shape, b.shape[1]
    if not (_batch_convolves(a, n, d) and r >= 8 and n >= 100 and d >= 512 and k * r * n * d >= 2**23):
        return torch.baddbmm(c, a, b.mT, alpha=alpha)
    found = functional.conv1d(a.mT.reshape(1, k * d, r), b.reshape(k * n, d, 1), dilation=DILATION, groups=k)
    return torch.add(c, found.view(k, n, r).mT, alpha=alpha, out=a.new_empty(k, r, n))  # in order


def add_batched(c: Tensor, a: Tensor, b: Tensor, alpha: float) -> None:
    """Add alpha a b to c (k, r, d), given a (k, r, n) and b (k, n, d)."""
    (k, r, n), d = a.shape, b.shape[2]
    if not (_batch_convolves(a, r, n) and n >= 50 and k * r * n * d >= 2**23):
        c.baddbmm_(a, b, alpha=alpha)
        return
    found = functional.conv1d(b.reshape(1, k * n, d), a.reshape(k * r, n, 1), dilation=DILATION, groups=k)
    c.add_(found.view(k, r, d), alpha=alpha)


def _piece(x: Tensor, dtype: torch.dtype) -> int:
    """Rows of a piece of x (n, d): so many that each begins at a multiple of 64 bytes if x does, see `aligned`."""
    rows = PIECE_BYTES // (x.shape[1] * dtype.itemsize)
    return max(16, rows - rows % 16) if x.is_cpu else len(x)


def _convolves(a: Tensor) -> bool:
    return WIDE and a.is_cpu and a.dtype is torch.float32 and bool(torch.backends.mkldnn.enabled)


def _batch_convolves(a: Tensor, rows: int, columns: int) -> bool:
    """Whether oneDNN goes the fast way with one kernel of rows x columns for each of the batch a."""
    return WIDE_BATCHES and _convolves(a) and a.shape[0] > 1 and bool(rows % BLOCKS or columns % BLOCKS)
