"""convolution_of of batches: every arithmetic against int64, and which is chosen."""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import oracle
from support.networks import random_network
from support.strategies import Case, networks

from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Shape
from loihi_convert.ir.synapse import Conv, Dense, Synapse
from loihi_convert.simulation import currents as module
from loihi_convert.simulation.currents import (
    MAX_BYTE,
    Convolution,
    Geometry,
    convolution_of,
    exact_products,
    has_fast_int8,
    sum_dtype,
    sum_pool,
    summed_currents,
)
from loihi_convert.simulation.graded import weighted
from loihi_convert.simulation.image_shards import on_cores

HAS_INT8 = platform.machine() == "x86_64" and torch.backends.mkldnn.is_available()


@given(case=networks(), seed=st.integers(0, 10**6))
# A 1 x 1 kernel with padding: some outputs see nothing else, which ends in SIGSEGV in the oneDNN of torch 2.3.
@example(case=random_network(307), seed=307)
@settings(max_examples=30, deadline=None)
def test_equal_int64(case: Case, seed: int) -> None:
    """Random synapses of every geometry, inputs as large as their pooling allows."""
    network, _ = case
    shapes = (network.input_shape, *network.shapes)
    rng = np.random.default_rng(seed)
    for layer, shape in zip(network.layers, shapes[:-1], strict=True):
        operator = convolution_of(layer.synapse, shape, averages=False, takes_spikes=True)
        groups = layer.synapse.groups if isinstance(layer.synapse, Conv) else 1
        is_fast = onednn_is_right(layer.synapse, shape) and has_fast_int8(layer.synapse.weight, groups)
        assert operator.uses_int8 == (HAS_INT8 and is_fast)
        spikes = rng.integers(0, 2, (2, *shape))
        expected = np.stack([oracle.current(without_bias(layer.synapse), image) for image in spikes])
        maps = spikes.reshape(2, *shape, *(1,) * (3 - len(shape))).transpose(0, 2, 3, 1)
        pooled = sum_pool(np.ascontiguousarray(maps, np.float32), layer.synapse.pool)
        in_float32 = convolution_of(layer.synapse, shape, averages=False, takes_spikes=False)
        for found in (operator(pooled.astype(sum_dtype(layer.synapse.pool))), in_float32(pooled)):
            assert found.dtype == np.float32
            assert np.array_equal(found.transpose(0, 3, 1, 2).reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("shape", "primitive", "sizes"), [((2, 2, 1024), "convolution", (4,)), ((1, 1, 1024), "matmul", (4, 100))]
)
def test_weights_are_ordered_once(
    capfd: pytest.CaptureFixture[str], shape: tuple[int, int, int], primitive: str, sizes: tuple[int, ...]
) -> None:
    """For the one thread that each core of a simulation has, whatever torch uses outside; products for any batch."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        weight = np.random.default_rng(0).integers(-127, 128, (512, 1024, 1, 1))
        geometry = Geometry((1, 1), (0, 0), (1, 1), 1)
        convolution = Convolution(weight, geometry, shape, largest_input=1, covers_map=False)
        batches = [np.ones((size, *shape), np.uint8) for size in sizes]

        def simulate(_: slice) -> None:
            for inputs in batches:
                convolution(inputs)
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                for inputs in batches:
                    convolution(inputs)

        on_cores("cpu", simulate, 1, 1)
    finally:
        torch.set_num_threads(before)
    done = capfd.readouterr().out
    assert (f"exec,cpu,{primitive}" in done) == HAS_INT8
    assert "exec,cpu,reorder" not in done


@pytest.mark.parametrize(
    ("geometry", "size"),
    [
        (Geometry((1, 1), (1, 1), (1, 1), 1), (4, 4)),
        (Geometry((2, 1), (2, 0), (1, 2), 1), (5, 7)),
        (Geometry((1, 2), (0, 2), (2, 1), 1), (8, 5)),
    ],
)
def test_large_kernels_on_small_maps_are_matrix_products(geometry: Geometry, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    conv = Conv(rng.integers(-127, 128, (330, 360, 3, 3)), None, *geometry)
    shape = (*size, 360)
    images = rng.integers(0, 130, (2, *shape), np.uint8)
    product = Convolution(conv.weight, geometry, shape, largest_input=129, covers_map=False)
    assert isinstance(product._int8, module._Int8Product if HAS_INT8 else type(None))
    expected = np.stack([oracle.current(conv, image) for image in images.transpose(0, 3, 1, 2)])
    for _ in range(2):
        assert np.array_equal(product(images).transpose(0, 3, 1, 2), expected)


@given(case=networks(), seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_currents_of_summed_inputs_are_summed_currents(case: Case, seed: int) -> None:
    """Of any number of maps, over all positions, in every geometry; pooling averages, so that a window counts once."""
    network, _ = case
    rng = np.random.default_rng(seed)
    for layer, shape in zip(network.layers, (network.input_shape, *network.shapes[:-1]), strict=True):
        spikes = rng.integers(0, 2, (3, *shape))
        currents = np.stack([oracle.current(without_bias(layer.synapse), image) for image in spikes])
        expected = currents.reshape(3, layer.synapse.channels, -1).sum(axis=(0, 2))
        maps = spikes.reshape(3, *shape, *(1,) * (3 - len(shape))).transpose(0, 2, 3, 1)
        summed = sum_pool(np.ascontiguousarray(maps, np.float32), layer.synapse.pool).sum(axis=0, dtype=np.float64)
        found = summed_currents(layer.synapse, shape, summed) * math.prod(layer.synapse.pool)
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-9)


def onednn_is_right(synapse: Synapse, shape: Shape) -> bool:
    """Whether every output sees the map, and a horizontal stride does not leave a single column."""
    if isinstance(synapse, Dense):
        return True
    ones = Conv(np.ones_like(synapse.weight), None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    pooled = (shape[0], shape[1] // synapse.pool[0], shape[2] // synapse.pool[1])
    seen = oracle.current(ones, np.ones(pooled, np.int64))
    return bool(seen.all()) and (synapse.stride[1] == 1 or seen.shape[2] > 1)


@pytest.mark.parametrize(
    ("weight_shape", "dilation", "padding", "shape"),
    [((16, 32, 2, 3), (3, 1), (2, 1), (32, 1, 6)), ((64, 64, 2, 2), (8, 8), (4, 4), (64, 4, 4))],
)
def test_a_dilation_that_jumps_over_the_map(
    weight_shape: tuple[int, ...], dilation: tuple[int, int], padding: tuple[int, int], shape: Shape
) -> None:
    """oneDNN's int8 convolution ends in SIGSEGV."""
    rng = np.random.default_rng(0)
    conv = Conv(rng.integers(-127, 128, weight_shape), padding=padding, dilation=dilation)
    spikes = rng.integers(0, 2, (2, *shape))
    operator = convolution_of(conv, shape, averages=False, takes_spikes=True)
    assert not operator.uses_int8
    found = operator(np.ascontiguousarray(spikes.transpose(0, 2, 3, 1), np.uint8))
    assert np.array_equal(found.transpose(0, 3, 1, 2), np.stack([oracle.current(conv, image) for image in spikes]))


def test_where_onednn_errs_float32_is_right() -> None:
    """A horizontal stride that leaves one column, for which torch's own convolution gives nonsense."""
    rng = np.random.default_rng(0)
    conv = Conv(rng.integers(-127, 128, (16, 3, 1, 5)), stride=(2, 3))
    images = rng.integers(0, 256, (64, 10, 5, 3))
    found = convolution_of(conv, (3, 10, 5), averages=False, takes_spikes=False)(images.astype(np.float32))
    expected = np.stack([oracle.current(conv, image) for image in images.transpose(0, 3, 1, 2)])
    assert np.array_equal(found.transpose(0, 3, 1, 2), expected)


def without_bias(synapse: Synapse) -> Synapse:
    if isinstance(synapse, Dense):
        return Dense(synapse.weight, None, synapse.pool)
    return Conv(synapse.weight, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups, synapse.pool)


@pytest.mark.parametrize(
    ("pool", "averages", "takes_spikes", "is_int8"),
    [
        ((2, 2), False, True, True),
        ((3, 43), False, True, True),  # 129 spikes: 2 x 127 x 129 = 32766 fits int16
        ((2, 65), False, True, False),  # 130: it does not
        ((2, 2), True, True, False),
        ((2, 2), False, False, False),
    ],
)
def test_int8_only_where_it_is_exact_on_every_processor(
    pool: tuple[int, int], averages: bool, takes_spikes: bool, is_int8: bool
) -> None:
    assert MAX_BYTE == 129
    shape: Shape = (1, pool[0], pool[1] * 2)
    operator = convolution_of(
        Conv(np.full((1, 1, 1, 1), 127), pool=pool), shape, averages=averages, takes_spikes=takes_spikes
    )
    assert operator.uses_int8 == (is_int8 and HAS_INT8)
    assert sum_dtype(pool) is np.uint8
    full = np.full((1, 1, 2, 1), math.prod(pool)).astype(np.uint8 if takes_spikes else np.float32)
    assert np.array_equal(operator(full).ravel(), [127 * (1 if averages else math.prod(pool))] * 2)


@pytest.mark.parametrize("broken", ["absent", "wrong", "wrong for one"])
def test_a_torch_without_or_with_wrong_int8_falls_back_to_float32(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    class Violation:
        def __init__(self, *arguments: object) -> None:
            if broken == "absent":
                raise NotImplementedError

        def __call__(self, inputs: np.ndarray) -> np.ndarray:
            # Right for the two images it is tried with, wrong for one.
            right = broken == "wrong for one" and len(inputs) == 2
            return inputs.astype(np.float32) if right else np.zeros(inputs.shape, np.float32)

    monkeypatch.setattr(module, "_Int8", Violation)
    monkeypatch.setattr(module, "_COMPARED", set())
    operator = convolution_of(Conv(np.ones((1, 1, 1, 1))), (1, 4, 4), averages=False, takes_spikes=True)
    assert operator.uses_int8 == (broken == "wrong for one")
    assert operator(np.ones((1, 4, 4, 1), np.uint8)).sum() == 16
    assert operator(np.ones((1, 4, 4, 1), np.uint8)).sum() == 16


@pytest.mark.parametrize(
    ("features", "slow"),
    [({"avx2", "avx"}, ["2 of 1", "4 of 2", "5 of 5"]), ({"avx512bw"}, []), ({"avx2", "avxvnni"}, [])],
)
def test_groups_that_are_slow_in_int8_are_float32(
    monkeypatch: pytest.MonkeyPatch, features: set[str], slow: list[str]
) -> None:
    """Processors before AVX-512 and AVX-VNNI: a depthwise layer of multiplier 2 took 19 times as long in int8."""
    monkeypatch.setattr(module, "cpu_features", lambda: frozenset(features))
    found = []
    for outputs, inputs, groups in ((1, 1, 8), (2, 1, 8), (4, 4, 2), (4, 2, 2), (5, 5, 2), (5, 3, 1)):
        geometry, weight = Geometry((1, 1), (1, 1), (1, 1), groups), np.ones((outputs * groups, inputs, 3, 3))
        made = Convolution(weight, geometry, (6, 6, inputs * groups), largest_input=1, covers_map=False)
        if not made.uses_int8:
            found.append(f"{outputs} of {inputs}")
    assert not HAS_INT8 or found == slow


@pytest.mark.parametrize("setting", [torch.set_default_dtype, torch.set_default_device])
def test_int8_needs_no_default_of_torch(setting: Callable[[Any], None]) -> None:
    before = torch.get_default_dtype()
    setting(torch.bfloat16 if setting is torch.set_default_dtype else "meta")
    try:
        geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
        made = [
            Convolution(np.ones((4, 4, size, size)), geometry, (3, 3, 4), largest_input=1, covers_map=False)
            for size in (3, 5)
        ]
        assert all(one.uses_int8 == HAS_INT8 for one in made)
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


def test_a_shape_is_compared_with_float32_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By shape oneDNN selects its code; other weights are tried on two images, whatever the batch."""
    sizes, in_float32 = [], Convolution.in_float32

    def counted(self: Convolution, inputs: np.ndarray) -> np.ndarray:
        sizes.append(len(inputs))
        return in_float32(self, inputs)

    monkeypatch.setattr(Convolution, "in_float32", counted)
    monkeypatch.setattr(module, "_COMPARED", set())
    maps = np.ones((3, 4, 4, 1), np.uint8)
    for weight in (1, 5):
        operator = convolution_of(Conv(np.full((1, 1, 3, 3), weight)), (1, 4, 4), averages=False, takes_spikes=True)
        for inputs in (maps, maps, maps[:1]):
            assert (operator(inputs) == 9 * weight).all()
    assert sizes == ([2, 3, 1, 2] if HAS_INT8 else [3, 3, 1] * 2)


def uses_nnpack() -> bool:
    return bool(torch._C._get_nnpack_enabled())


def rounds_on_a_gpu() -> bool:
    matmul = torch.backends.cuda.matmul
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)


def rounds_on_a_cpu() -> bool:
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return "bf16" in (torch.backends.mkldnn.matmul.fp32_precision, torch.backends.mkldnn.conv.fp32_precision)  # type: ignore[attr-defined]
    return torch.get_float32_matmul_precision() == "medium"


@pytest.fixture
def rounding() -> Iterator[None]:
    """The fastest and least exact settings of a program."""
    torch.set_float32_matmul_precision("medium")
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        torch.backends.mkldnn.conv.fp32_precision = "bf16"  # type: ignore[attr-defined]
    yield
    torch.set_float32_matmul_precision("highest")
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        torch.backends.mkldnn.conv.fp32_precision = "none"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("autocast", [False, True])
def test_settings_that_round_change_no_integer(autocast: bool) -> None:
    """Sums of pixels and digits of graded spikes have more than the 8 bits of bfloat16."""
    rng = np.random.default_rng(0)
    conv = Conv(rng.integers(-127, 128, (32, 32, 3, 3)), padding=(1, 1))
    dense = Dense(rng.integers(-127, 128, (128, 512)))
    maps, rows = rng.integers(0, 1021, (4, 32, 16, 16)), rng.integers(0, 1021, (4, 512, 1, 1))
    # Threads that a simulation starts do not inherit autocast; those of the caller do.
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for synapse, shape, values in ((conv, (32, 16, 16), maps), (dense, (512,), rows)):
            given = values.reshape(4, *shape)
            expected = np.stack([oracle.current(synapse, one) for one in given])
            pixels = np.ascontiguousarray(values.transpose(0, 2, 3, 1), np.float32)
            found = convolution_of(synapse, shape, averages=False, takes_spikes=False)(pixels)
            assert np.array_equal(found.transpose(0, 3, 1, 2).reshape(expected.shape), expected)
            assert np.array_equal(weighted(synapse, given), expected)
            assert convolution_of(synapse, shape, averages=False, takes_spikes=True).uses_int8 == HAS_INT8


@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"])
def test_an_environment_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "bf16")
    with pytest.raises(UsageError) as raised, exact_products():
        pass
    assert (raised.value.where, raised.value.found) == (f"environment variable {name}", "found 'bf16'")
    for harmless in ("strict", ""):
        monkeypatch.setenv(name, harmless)
        with exact_products():
            pass


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_an_inherited_precision_stays_inherited() -> None:
    backends: Any = torch.backends
    backends.mkldnn.matmul.fp32_precision = "none"
    try:
        backends.mkldnn.fp32_precision = "bf16"
        with exact_products():
            assert backends.mkldnn.matmul.fp32_precision == "ieee"
        assert backends.mkldnn.matmul.fp32_precision == "bf16"
        backends.mkldnn.fp32_precision = "ieee"
        assert backends.mkldnn.matmul.fp32_precision == "ieee"
    finally:
        backends.mkldnn.fp32_precision = "none"


@pytest.mark.parametrize("is_on", [uses_nnpack, rounds_on_a_gpu, rounds_on_a_cpu])
@pytest.mark.usefixtures("rounding")
def test_a_setting_holds_until_the_last_thread_has_left(is_on: Callable[[], bool]) -> None:
    """One enters, another one enters, the first leaves: torch's setting is one for both."""
    before = is_on()
    entered, may_leave = threading.Event(), threading.Event()
    found = []

    def other() -> None:
        with exact_products():
            entered.set()
            may_leave.wait(60)
            found.append(is_on())

    thread = threading.Thread(target=other)
    with exact_products():
        thread.start()
        assert entered.wait(60)
    may_leave.set()
    thread.join(60)
    assert found == [False]
    assert is_on() == before
