"""``kernels.cu`` on a CPU: its kernels compute the same as the PyTorch operations they replace.

The source is compiled for the host with ``cuda_on_host.h``, which emulates the parts of CUDA that
it needs, and is called through ``gpu_passes`` as on a GPU. The three instructions that it has in
assembly are replaced by C++.
"""

import contextlib
import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipeline.style.hardware import gpu_passes, kernels, pooling
from pipeline.style.hardware.kernels import SOURCE, _kind
from pipeline.style.method.losses import add_style_gradient
from pipeline.style.network.rescaling import random_weights
from pipeline.style.network.vgg import VGG, align_input
from pipeline.style.optimizer.lbfgs import LBFGS
from pipeline.style.optimizer.precondition import Preconditioner
from tests.conftest import NARROW, picture

COMPILER = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

KERNELS = (
    "pool<Half>", "pool<float>", "relu_pool_backward<Half>", "relu_pool_backward<float>",
    "style_backward<64>", "style_backward<128>", "enter_network<Half, 8>",
    "enter_network<float, 3>", "leave_network<Half, 8>", "leave_network<float, 3>", "by_ring",
    "remember<4>", "move<4>", "remember<11>", "move<11>",
)  # fmt: skip

ASSEMBLY = {
    "cvt.f32.f16": "y = host::widened(x.bits)",
    "cvt.rn.f16.f32": "y.bits = host::narrowed(x)",
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32": (
        "host::multiply(c, a0, a1, a2, a3, b0, b1)"
    ),
}

KINDS = {ctypes.c_void_p: "p", ctypes.c_int: "i", ctypes.c_float: "f"}


def in_cpp() -> str:
    """Return the source for the host, with a function to launch each kernel."""
    source = SOURCE.read_text()
    for instruction, words in ASSEMBLY.items():
        source, count = re.subn(
            rf'asm\("{re.escape(instruction)} .*?\);', f"{words};", source, flags=re.DOTALL
        )
        assert count == 1, instruction
    assert "asm(" not in source
    parts = ['#include "cuda_on_host.h"', source, 'extern "C" {']
    for number, name in enumerate(KERNELS):
        parts.append(
            f"const char* launch_{number}(int columns, int rows, int threads, void** values, "
            f"const char* kinds) "
            f"{{ return host::launch(&{name}, columns, rows, threads, values, kinds); }}"
        )
    parts.append("float widened(unsigned short x) { return host::widened(x); }")
    parts.append("unsigned short narrowed(float x) { return host::narrowed(x); }\n}\n")
    return "\n".join(parts)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(in_cpp())
    command = [
        COMPILER, "-std=c++17", "-O1", "-w", "-fno-strict-aliasing", "-shared", "-fPIC",
        "-I", Path(__file__).parent, folder / "kernels.cpp", "-o", folder / "kernels.so",
    ]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return ctypes.CDLL(folder / "kernels.so")


@pytest.fixture
def on_host(library, monkeypatch):
    """Let ``gpu_passes`` launch the host's kernels, and return the names of those launched."""
    launched = []

    def kernel(name, like):
        function = getattr(library, f"launch_{KERNELS.index(name)}")
        function.restype = ctypes.c_char_p

        def launch(grid, threads, *arguments):
            kinds = list(map(_kind, arguments))
            values = [
                kind(each.data_ptr() if isinstance(each, torch.Tensor) else each)
                for kind, each in zip(kinds, arguments, strict=True)
            ]
            addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            code = "".join(KINDS[kind] for kind in kinds).encode()
            fault = function(*grid, threads, addresses, code)
            assert fault is None, (name, fault)
            launched.append(name)

        return launch

    monkeypatch.setattr(gpu_passes, "kernel", kernel)
    return launched


def drawn(dtype, *shape):
    """Draw values of both signs, in channels_last format."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(*shape, generator=generator).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def test_float16_is_converted_as_by_pytorch(library):
    library.widened.restype, library.widened.argtypes = ctypes.c_float, [ctypes.c_uint16]
    library.narrowed.restype, library.narrowed.argtypes = ctypes.c_uint16, [ctypes.c_float]
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    wide = bits.view(torch.float16).float()
    found = torch.tensor([library.widened(each & 0xFFFF) for each in bits.tolist()])
    assert torch.equal(found.nan_to_num(1e9), wide.nan_to_num(1e9))
    finite = wide[wide.isfinite()]
    between = torch.cat([finite * (1 + off) for off in (0, 2**-11, -(2**-12), 2**-10.5)])
    between = torch.cat(
        [between[::7], torch.tensor([65519.0, 65520, 1e9, 1e-9, 2**-25, -torch.inf])]
    )
    narrow = torch.tensor([library.narrowed(each) for each in between.tolist()])
    assert torch.equal(narrow, between.half().view(torch.int16).int() & 0xFFFF)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 8, 2, 2), (3, 24, 6, 10), (2, 16, 34, 6)])
def test_pooling_and_its_adjoint(on_host, dtype, shape):
    x = drawn(dtype, *shape).relu()
    pooled = gpu_passes.pool(x)
    expected = F.avg_pool2d(x.double(), 2).to(dtype)
    torch.testing.assert_close(
        pooled, expected, rtol=1e-6 if dtype == torch.float32 else 1e-3, atol=0
    )
    gradient = drawn(dtype, *pooled.shape)
    back = gpu_passes.relu_pool_backward(x, gradient)
    assert torch.equal(back, pooling.relu_mean_backward(x, gradient))
    assert (back != 0).any()
    word = gpu_passes.TYPES[dtype][0]
    assert on_host == [f"pool<{word}>", f"relu_pool_backward<{word}>"]


@pytest.mark.parametrize(("filters", "size"), [(64, (3, 3)), (64, (15, 20)), (128, (9, 15))])
def test_the_style_gradient(on_host, monkeypatch, filters, size):
    monkeypatch.setattr(gpu_passes, "TILES", 2 if filters == 64 else 1)
    F_l = drawn(torch.float16, 2, filters, *size).relu()
    gradient = drawn(torch.float16, 2, filters, *size)
    gram = torch.randn(2, filters, filters, generator=torch.Generator().manual_seed(0))
    gram = gram + gram.transpose(1, 2)
    weight = torch.tensor([1e4, 3e5]) * size[0]
    ours, theirs = gradient.clone(), gradient.double()
    E, found = add_style_gradient(F_l, gram, weight, ours)
    assert found is ours
    assert on_host == [f"style_backward<{filters}>"]
    monkeypatch.setattr(gpu_passes, "style_backward", lambda *arguments: False)
    expected, by_torch = add_style_gradient(F_l.double(), gram.double(), weight.double(), theirs)
    assert by_torch is theirs
    assert not theirs[F_l == 0].any()
    torch.testing.assert_close(E, expected.float())
    assert (theirs - torch.where(F_l > 0, gradient, 0)).abs().max() > 1
    limit = 2e-3 * float(theirs.abs().max())
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-3, atol=limit)
    assert not ours[F_l == 0].any()


@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 3), (torch.float16, 8)])
def test_entering_and_leaving_the_network(on_host, dtype, channels):
    network = VGG(random_weights(7, NARROW), deepest_layer="conv1_1")
    if channels == 8:
        align_input(network)
    network.features.to(dtype)
    mean, std = (network.get_buffer(name).float() for name in ("mean", "std"))
    images = torch.stack([picture(seed, 15, 40) for seed in range(2)])
    found = gpu_passes.enter_network(images, mean, std, channels, dtype)
    expected = network.preprocess(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-5 if channels == 3 else 1e-3, atol=1e-5)

    gradient = drawn(dtype, 3, channels, 15, 40)
    gradient[1, 2, 7, 9] = torch.nan
    gradient[2, 0, 14, 39] = -200
    scale = torch.tensor([1.0, 2.0, 0.25])
    left, largest = gpu_passes.leave_network(gradient, scale, std)
    expected = gradient[:, :3].double() * scale.view(-1, 1, 1, 1) / std
    torch.testing.assert_close(left, expected.float(), rtol=1e-5, atol=0, equal_nan=True)
    assert largest[1].isnan()
    assert torch.equal(largest[[0, 2]], left[[0, 2]].flatten(1).abs().amax(dim=1))
    word = gpu_passes.TYPES[dtype][0]
    assert on_host == [f"enter_network<{word}, {channels}>", f"leave_network<{word}, {channels}>"]


def test_a_matrix_for_each_ring_of_frequencies(on_host, monkeypatch):
    gradient = drawn(torch.float32, 2, 3, 21, 34).contiguous()
    colors = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 0.7]])
    found = {}
    for name in ("kernel", "plain"):
        P = Preconditioner((21, 34), 2, 0.75, gradient)
        P.put(0)
        P.put(1, colors)
        assert (P.table is None) == (name == "kernel")
        found[name] = P(gradient)
        monkeypatch.setattr(gpu_passes, "has_by_ring", lambda like: False)
    torch.testing.assert_close(found["kernel"], found["plain"], rtol=1e-4, atol=1e-5)
    assert on_host == ["by_ring"]


@pytest.mark.parametrize(("m", "blocks"), [(3, 2), (10, 1)])
def test_lbfgs_is_the_same_with_and_without_kernels(on_host, monkeypatch, m, blocks):
    """Minimise quadratics: one slot meets values that are not finite, one becomes inactive."""
    monkeypatch.setattr(gpu_passes, "BLOCKS", blocks)
    D = 3 * 40 * 20
    scale = torch.logspace(0, 3, D)
    start, aim = (torch.rand(3, D, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    P = 1 / (1 + torch.linspace(0, 2, D))

    def steps():
        solver = LBFGS(start, history_size=m, bounds=(0.0, 1.0), first_step=0.01, reach=2.0)
        points = []
        for at in range(12):
            gradient = scale * (solver.x - aim)
            loss = 0.5 * (gradient * (solver.x - aim)).sum(dim=1)
            if at == 5:
                gradient[1, 7] = torch.nan
            solver.step(loss, gradient, torch.tensor([True, True, at < 8]), P * gradient)
            points.append(
                [
                    each.clone()
                    for each in (solver.x, solver.loss, solver.history.SY, solver.history.YY)
                ]
            )
        return solver, points

    solver, ours = steps()
    assert set(on_host) == {f"remember<{m + 1}>", f"move<{m + 1}>"}
    monkeypatch.setattr(gpu_passes, "kernel", lambda name, like: None)
    other, theirs = steps()
    for found, expected in zip(ours, theirs, strict=True):
        for value, wanted in zip(found, expected, strict=True):
            limit = 1e-3 * float(wanted[wanted.isfinite()].abs().max())
            torch.testing.assert_close(value, wanted, rtol=1e-3, atol=limit)
    assert torch.equal(solver.history.pairs, other.history.pairs)
    assert solver.history.pairs.min() > 2


def test_a_kernel_that_cannot_be_compiled_gives_a_warning(monkeypatch, caplog):
    def broken(name, device):
        raise RuntimeError("CUDA error: NVRTC_ERROR_COMPILATION")

    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(kernels, "_bind", lambda device: None)
    monkeypatch.setattr(kernels, "_compiled", broken)
    assert kernels._kernel.__wrapped__("a_kernel", 0) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "a_kernel is left to PyTorch: CUDA error: NVRTC" in record.getMessage()
