"""Products by convolution and by torch's own products are the same products."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crfl import matmul

SMALL = [(3, 4, 5, 6), (1, 10, 20, 7)]
LARGE = [
    (20, 10, 100, 657),  # MNIST: clients, a client's classes, samples, features
    (2, 47, 200, 686),  # EMNIST
    (6, 33, 102, 1000),
    (2, 50, 64, 2048),
    (16, 9, 800, 90),  # LOAN
    (4, 8, 100, 784),  # multiples of 4
]


pytestmark = pytest.mark.filterwarnings("ignore:TF32")  # of mkldnn.flags, about Intel's GPUs


@pytest.fixture(params=[False, True], ids=["multiplied", "convolved"])
def ways(request, monkeypatch):
    """Both ways on any processor, whoever made it."""
    for constant in ("WIDE", "WIDE_BATCHES"):
        monkeypatch.setattr(matmul, constant, request.param)


@pytest.fixture
def wide(monkeypatch):
    """As on AMD's processors with the whole of AVX-512."""
    for constant in ("WIDE", "WIDE_BATCHES"):
        monkeypatch.setattr(matmul, constant, True)


class Operations(TorchDispatchMode):
    """Notes what torch really computes."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def convolves(product, *arguments):
    with Operations() as seen:
        product(*arguments)
    return any("convolution" in name for name in seen.names)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_product(found, a, b):
    """`found` is a b but for the rounding of float32, and contiguous."""
    exact, size = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    assert found.dtype == a.dtype
    assert found.is_contiguous()
    assert ((found - exact).abs() <= 1e-6 * size).all()


@pytest.mark.parametrize(("k", "r", "n", "d"), SMALL + LARGE)
def test_batches_of_products(ways, k, r, n, d):
    a, b = normal(k, r, d), normal(k, n, d, seed=1)
    bias = normal(k, r, 1, seed=4)
    assert_product(matmul.batched_affine(a, b, bias, 0.5) - bias, a / 2, b.mT)
    start, c = normal(k, r, d, seed=2), normal(k, r, n, seed=3)
    found = start.clone()
    matmul.add_batched(found, c, b, -0.25)
    size = c.double().abs() @ b.double().abs() + start.abs()
    assert ((found - (start - 0.25 * c.double() @ b.double())).abs() <= 1e-6 * size).all()


@pytest.mark.parametrize(
    ("r", "n", "d"),
    [(10, 9999, 784), (1020, 512, 784), (512, 1020, 91), (3, 2000, 800), (7, 30, 4), (900, 40, 500), (10, 1000, 1)],
)
def test_inner_products(ways, r, n, d):
    a, b = normal(r, d), normal(n, d, seed=1)
    assert_product(matmul.inner(a, b), a, b.mT)
    a, b = normal(d, r).mT, normal(n, 2 * d)[:, ::2]  # not contiguous
    assert_product(matmul.inner(a, b), a, b.mT)


def test_what_is_not_finite_stays_with_its_client(ways):
    a, b, c = normal(3, 47, 785), normal(3, 200, 785, seed=1), normal(3, 47, 200, seed=2)
    b[1, 7, 5] = torch.nan
    found = normal(3, 47, 785, seed=3)
    matmul.add_batched(found, c, b, 1.0)
    for result in (found, matmul.batched_affine(a, b, a[:, :, :1], 1.0)):
        assert torch.isfinite(result).flatten(1).all(1).tolist() == [True, False, True]


def test_one_thread():
    several, a, b = torch.get_num_threads(), normal(600, 300), normal(600, 300, seed=1)
    try:
        torch.set_num_threads(1)
        assert_product(matmul.inner(a, b), a, b.mT)
    finally:
        torch.set_num_threads(several)


def test_convolutions_are_taken_for_the_shapes_of_the_paper(wide):
    """Else the benchmarks' speed would be lost without a sign."""
    assert convolves(matmul.inner, normal(10, 784), normal(10_000, 784))
    assert convolves(matmul.inner, normal(1020, 784), normal(512, 784))
    assert convolves(matmul.batched_affine, normal(20, 10, 657), normal(20, 100, 657), normal(20, 10, 1), 1.0)
    assert convolves(matmul.add_batched, normal(20, 10, 657), normal(20, 10, 100), normal(20, 100, 657), 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n\nvendor_id\t: AuthenticAMD\n",
            ("AuthenticAMD", 25),
        ),
        ("vendor_id : GenuineIntel\ncpu family : 6\n", ("GenuineIntel", 6)),
        ("processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n", ("", 0)),
        ("cpu family: unknown", ("", 0)),
    ],
)
def test_the_processor_is_asked_for_its_maker_and_family(text, expected, tmp_path):
    about = tmp_path / "cpuinfo"
    assert matmul._processor(about) == ("", 0)
    about.write_text(text, encoding="utf-8")
    assert matmul._processor(about) == expected


def test_half_wide_processors_multiply_batches(wide, monkeypatch):
    monkeypatch.setattr(matmul, "WIDE_BATCHES", False)
    assert convolves(matmul.inner, normal(10, 784), normal(10_000, 784))
    assert not convolves(matmul.batched_affine, normal(20, 10, 657), normal(20, 100, 657), normal(20, 10, 1), 1.0)
    assert not convolves(matmul.add_batched, normal(20, 10, 657), normal(20, 10, 100), normal(20, 100, 657), 1.0)


def test_what_gains_nothing_is_multiplied(wide):
    exact = torch.float64
    assert not convolves(matmul.inner, normal(600, 300, dtype=exact), normal(600, 300, dtype=exact))
    assert not convolves(matmul.inner, normal(2, 784), normal(10_000, 784))
    assert not convolves(matmul.batched_affine, normal(2, 47, 784), normal(2, 200, 784), normal(2, 47, 1), 1.0)
    assert not convolves(matmul.add_batched, normal(20, 8, 657), normal(20, 8, 100), normal(20, 100, 657), 1.0)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not convolves(matmul.inner, normal(600, 300), normal(600, 300))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_aligned_numbers_are_the_same_and_in_a_row(dtype):
    whole = torch.arange(600, dtype=dtype)
    for part in (whole, whole[3:90], whole.view(20, 30)[1:], whole.view(20, 30).mT, whole[::7]):
        found = matmul.aligned(part)
        assert torch.equal(found, part)
        assert found.is_contiguous()
        assert found.data_ptr() % 64 == 0
    assert matmul.aligned(whole) is whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("r", "n", "d"), [(10, 1335, 784), (10, 1336, 784), (30, 3777, 400), (10, 5000, 399), (1, 2501, 512), (3, 0, 5)]
)
def test_products_of_few_rows_by_many(r, n, d, dtype):
    """In pieces or not."""
    rows, b = normal(r, d, dtype=dtype), normal(n, d, seed=1, dtype=dtype)
    assert_product(matmul.inner(rows, b), rows, b.mT)


@pytest.mark.parametrize(("n", "d", "dtype"), [(20_000, 200, torch.float32), (5000, 784, torch.float64)])
def test_pieces_are_of_one_size_and_leave_out_no_row(n, d, dtype):
    x = torch.zeros(n, d, dtype=dtype)
    found = list(matmul.pieces(x, dtype))
    assert torch.equal(torch.cat([torch.arange(n)[some] for some, _ in found]), torch.arange(n))
    (size,) = {size for _, size in found[:-1]}
    assert size * d * dtype.itemsize <= matmul.PIECE_BYTES < (size + 16) * d * dtype.itemsize
    assert size % 16 == 0  # so that each begins at a multiple of 64 bytes
    assert all(len(x[some]) % size == 0 for some, size in found)
    assert not matmul.is_one_piece(x, dtype)


def test_few_rows_are_one_piece():
    few, float32 = torch.zeros(7, 30, dtype=torch.uint8), torch.float32
    assert list(matmul.pieces(few, float32)) == [(slice(0, 7), 7)]
    assert list(matmul.pieces(few[:0], float32)) == []
    assert list(matmul.pieces(torch.zeros(33, 2**15), float32)) == [(slice(0, 32), 16), (slice(32, 33), 1)]
    assert matmul.is_one_piece(few, float32)
