"""Every layer that PyTorch has, against PyTorch: outputs, and gradients by every input and parameter.

Twenty random configurations each, in float64. An oracle here reads and returns (N, C, H, W) tensors; what it
is handed are views of leaves in our layout, so the gradients compare as they come.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from minidnn import layers
from minidnn.window import Window
from tests.samples import batch_and_channels, distinct, geometry, grouped, two

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.oracle


@pytest.fixture(params=range(20))
def rng(request) -> np.random.Generator:
    return np.random.default_rng(request.param)


def agree(layer, *xs, oracle, rng, mode="test") -> None:
    """Forward, backward and backward_params of the layer give the numbers of the oracle."""
    leaves = [torch.tensor(x, requires_grad=True) for x in xs]
    params = {name: torch.tensor(array, requires_grad=True) for name, array in layer.params.items()}
    theirs = oracle(*(leaf.permute(0, 3, 1, 2) for leaf in leaves), **params).permute(0, 2, 3, 1)
    dzdy = distinct(rng, theirs.shape)
    theirs.backward(torch.tensor(dzdy))

    y, aux = layer.forward(*xs, mode=mode, rng=rng)
    close(y, theirs)
    x, x_shape = (xs, tuple(x.shape for x in xs)) if len(xs) > 1 else (xs[0], xs[0].shape)
    dzdx = layer.backward(dzdy, x=x, y=y, aux=aux, x_shape=x_shape, mode=mode)
    for ours, leaf in zip(dzdx if len(xs) > 1 else (dzdx,), leaves, strict=True):
        close(ours, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    dzdw = layer.backward_params(dzdy, x=x, y=y, aux=aux, x_shape=x_shape, mode=mode)
    assert dzdw.keys() == params.keys()
    for name, leaf in params.items():
        close(dzdw[name], leaf.grad)


def close(ours, theirs) -> None:
    assert ours.shape == tuple(theirs.shape)
    assert ours.dtype == np.float64
    assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-10)


def padded(x, window: Window, fill: float = 0.0):
    top, bottom, left, right = window.pad
    return F.pad(x, (left, right, top, bottom), value=fill)


def image(rng: np.random.Generator) -> np.ndarray:
    n, c = batch_and_channels(rng)
    return distinct(rng, (n, *two(rng, 5, 9), c))


# Convolution


@pytest.mark.parametrize("bias", [True, False])
def test_conv_is_torchs_conv2d_on_a_padded_image(rng, bias):
    window, h, w = geometry(rng)
    n, groups, c, k = grouped(rng)
    bank = distinct(rng, (*window.kernel, c // groups, k))
    layer = layers.Conv(bank, distinct(rng, (k,)) if bias else None, window, groups)

    def oracle(x, w, b=None):
        options = {"stride": window.stride, "dilation": window.dilation, "groups": groups}
        return F.conv2d(padded(x, window), w.permute(3, 2, 0, 1), b, **options)

    agree(layer, distinct(rng, (n, h, w, c)), oracle=oracle, rng=rng)


@pytest.mark.parametrize("bias", [True, False])
def test_conv_transpose_is_torchs_cropped_by_the_pads(rng, bias):
    n, groups, c, k = grouped(rng)
    while True:
        window, h, w = geometry(rng)
        extra = tuple(int(rng.integers(0, stride)) for stride in window.stride)
        top, bottom, left, right = window.pad
        if h > top + bottom and w > left + right:
            break
    bank = distinct(rng, (*window.kernel, k // groups, c))
    layer = layers.ConvTranspose(bank, distinct(rng, (k,)) if bias else None, window, groups, extra)

    def oracle(x, w, b=None):
        options = {"stride": window.stride, "dilation": window.dilation, "groups": groups}
        whole = F.conv_transpose2d(x, w.permute(3, 2, 0, 1), b, output_padding=extra, **options)
        return whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]

    agree(layer, distinct(rng, (n, h, w, c)), oracle=oracle, rng=rng)


@pytest.mark.parametrize("bias", [True, False])
def test_fc_is_torchs_linear_on_the_flattened_map(rng, bias):
    x = image(rng)
    k = int(rng.integers(10, 13))
    layer = layers.FC(distinct(rng, (*x.shape[1:], k)), distinct(rng, (k,)) if bias else None)

    def oracle(x, w, b=None):
        return F.linear(x.flatten(1), w.permute(3, 2, 0, 1).flatten(1), b)[:, :, None, None]

    agree(layer, x, oracle=oracle, rng=rng)


# Pointwise


def test_relu_is_torchs(rng):
    agree(layers.ReLU(), image(rng), oracle=torch.relu, rng=rng)


def test_relu_has_gradient_0_at_0_as_torch_has(rng):
    x = image(rng)
    x[x < 0.2] = 0
    agree(layers.ReLU(), x, oracle=torch.relu, rng=rng)


def test_leaky_relu_is_torchs(rng):
    leak = float(rng.uniform(0.05, 0.5))
    agree(layers.LeakyReLU(leak), image(rng), oracle=lambda x: F.leaky_relu(x, leak), rng=rng)


def test_leaky_relu_has_its_leak_for_gradient_at_0_as_torch_has(rng):
    x = image(rng)
    x[x < 0.2] = 0
    agree(layers.LeakyReLU(0.3), x, oracle=lambda x: F.leaky_relu(x, 0.3), rng=rng)


def test_prelu_with_one_slope_is_torchs(rng):
    layer = layers.PReLU(distinct(rng, (1,)))
    agree(layer, image(rng), oracle=lambda x, slope: F.prelu(x, slope), rng=rng)


def test_prelu_with_a_slope_for_each_channel_is_torchs(rng):
    x = image(rng)
    layer = layers.PReLU(distinct(rng, x.shape[3:]))
    agree(layer, x, oracle=lambda x, slope: F.prelu(x, slope), rng=rng)


def test_sigmoid_is_torchs(rng):
    agree(layers.Sigmoid(), 5 * image(rng), oracle=torch.sigmoid, rng=rng)


def test_tanh_is_torchs(rng):
    agree(layers.Tanh(), 3 * image(rng), oracle=torch.tanh, rng=rng)


def test_softmax_is_torchs_over_the_channels(rng):
    agree(layers.Softmax(), 5 * image(rng), oracle=lambda x: torch.softmax(x, dim=1), rng=rng)


def test_gradient_reversal_is_an_identity_with_minus_its_factor_on_the_way_back(rng):
    factor = float(rng.uniform(0.1, 3))

    class Reversal(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dzdy):
            return -factor * dzdy

    agree(layers.GradientReversal(factor), image(rng), oracle=Reversal.apply, rng=rng)


# Pooling


def pooled(x, window: Window, **options):
    return F.max_pool2d(x, window.kernel, window.stride, dilation=window.dilation, **options)


def windowed(rng: np.random.Generator, **options) -> tuple[Window, np.ndarray]:
    """A window with four pads of its own, and an image on which every window sees a pixel."""
    window, h, w = geometry(rng, pooling=True, **options)
    n, c = batch_and_channels(rng)
    return window, distinct(rng, (n, h, w, c))


def symmetric(rng: np.random.Generator, *, ceil: bool = True) -> tuple[Window, np.ndarray]:
    """A window with the pads that torch's own pooling takes: the same on both sides, at most half of it."""
    kernel = two(rng, 2, 5)
    py, px = (int(rng.integers(0, k // 2 + 1)) for k in kernel)
    return Window.of(kernel, stride=two(rng, 1, 4), pad=(py, py, px, px), ceil=ceil), image(rng)


@pytest.mark.parametrize("offset", [0, -3])
def test_max_pool_is_torchs_on_an_image_padded_with_minus_infinity(rng, offset):
    window, x = windowed(rng)
    agree(
        layers.MaxPool(window),
        x + offset,  # also on images that are negative everywhere, where a padded 0 would win
        oracle=lambda x: pooled(padded(x, window, -np.inf), window),
        rng=rng,
    )


def test_max_pool_without_pads_rounds_its_size_up_as_torch_does(rng):
    window, x = windowed(rng, padded=False, ceil=True)
    agree(layers.MaxPool(window), x, oracle=lambda x: pooled(x, window, ceil_mode=True), rng=rng)


def test_max_pool_with_pads_rounds_its_size_up_as_torch_does(rng):
    window, x = symmetric(rng)
    pads = window.pad[::2]
    agree(
        layers.MaxPool(window), x, oracle=lambda x: pooled(x, window, padding=pads, ceil_mode=True), rng=rng
    )


def unpooled(values, pooled_from, window: Window):
    """The values added up at torch's indices on the padded sheet, whose pads are then cut off."""
    sheet = padded(pooled_from, window, -np.inf)
    _, indices = F.max_pool2d(
        sheet, window.kernel, window.stride, dilation=window.dilation, return_indices=True
    )
    flat = torch.zeros(sheet.shape, dtype=sheet.dtype).flatten(2)
    sheet = flat.scatter_add(2, indices.flatten(2), values.flatten(2)).reshape(sheet.shape)
    top, bottom, left, right = window.pad
    return sheet[:, :, top : sheet.shape[2] - bottom, left : sheet.shape[3] - right]


def test_max_unpool_adds_values_where_the_indices_of_torch_say(rng):
    window, x = windowed(rng)
    values = distinct(rng, layers.MaxPool(window).out_shape(x.shape))
    agree(layers.MaxUnpool(window), values, x, oracle=lambda v, x: unpooled(v, x, window), rng=rng)


def test_max_unpool_of_windows_side_by_side_is_torchs_max_unpool2d(rng):
    kernel, x = two(rng, 1, 4), image(rng)
    window = Window.of(kernel, stride=kernel)

    def oracle(values, pooled_from):
        _, indices = F.max_pool2d(pooled_from, kernel, return_indices=True)
        return F.max_unpool2d(values, indices, kernel, output_size=x.shape[1:3])

    values = distinct(rng, layers.MaxPool(window).out_shape(x.shape))
    agree(layers.MaxUnpool(window), values, x, oracle=oracle, rng=rng)


@pytest.mark.parametrize("divisor", ["padded", "real"])
@pytest.mark.parametrize("ceil", [False, True])
def test_avg_pool_divides_as_torch_does(rng, divisor, ceil):
    window, x = symmetric(rng, ceil=ceil)
    options = {"padding": window.pad[::2], "ceil_mode": ceil, "count_include_pad": divisor == "padded"}
    agree(
        layers.AvgPool(window, divisor),
        x,
        oracle=lambda x: F.avg_pool2d(x, window.kernel, window.stride, **options),
        rng=rng,
    )


def test_avg_pool_that_divides_by_all_taps_is_torchs_on_a_padded_image(rng):
    window, x = windowed(rng, dilated=False)
    agree(
        layers.AvgPool(window, "all"),
        x,
        oracle=lambda x: F.avg_pool2d(padded(x, window), window.kernel, window.stride),
        rng=rng,
    )


def test_global_avg_pool_is_torchs_adaptive_one_to_one_pixel(rng):
    agree(layers.GlobalAvgPool(), image(rng), oracle=lambda x: F.adaptive_avg_pool2d(x, 1), rng=rng)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_upsample_nearest_is_torchs(rng, factor):
    agree(
        layers.Upsample(factor, "nearest"),
        image(rng),
        oracle=lambda x: F.interpolate(x, scale_factor=factor, mode="nearest"),
        rng=rng,
    )


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_upsample_bilinear_is_torchs_without_aligned_corners(rng, factor):
    agree(
        layers.Upsample(factor, "bilinear"),
        image(rng),
        oracle=lambda x: F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False),
        rng=rng,
    )


# Normalisation


def random_lrn(rng: np.random.Generator, kind: type, size: int):
    kappa, alpha, beta = (float(number) for number in rng.uniform([0.5, 0.2, 0.3], [2, 2, 1.2]))
    return kind(size=size, kappa=kappa, alpha=alpha, beta=beta)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_lrn_over_an_odd_size_is_torchs_whose_alpha_is_for_the_whole_window(rng, size):
    layer = random_lrn(rng, layers.LRN, size)
    x = distinct(rng, (2, *two(rng, 3, 5), int(rng.integers(1, 11))))
    agree(
        layer,
        x,
        oracle=lambda x: F.local_response_norm(x, size, layer.alpha * size, layer.beta, layer.kappa),
        rng=rng,
    )


@pytest.mark.parametrize("size", [2, 4, 6])
def test_lrn_over_an_even_size_leans_forward_where_torchs_leans_backward(rng, size):
    layer = random_lrn(rng, layers.LRN, size)
    x = distinct(rng, (2, *two(rng, 3, 5), int(rng.integers(1, 11))))

    def oracle(x):
        turned = F.local_response_norm(x.flip(1), size, layer.alpha * size, layer.beta, layer.kappa)
        return turned.flip(1)

    agree(layer, x, oracle=oracle, rng=rng)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn_within_divides_by_a_mean_of_squares_of_torch(rng, size):
    layer = random_lrn(rng, layers.LRNWithin, size)

    def oracle(x):
        mean = F.avg_pool2d(x * x, size, stride=1, padding=size // 2, count_include_pad=True)
        return x / (layer.kappa + layer.alpha * size**2 * mean) ** layer.beta

    agree(layer, image(rng), oracle=oracle, rng=rng)


@pytest.mark.parametrize("mode", ["train", "test"])
def test_batch_norm_is_torchs(rng, mode):
    x = image(rng)
    c = x.shape[3]
    gamma, beta, mean, var = (distinct(rng, (c,)) for _ in range(4))
    layer = layers.BatchNorm(gamma, beta, mean, abs(var), eps=1e-3)
    stored = [torch.tensor(layer.mean), torch.tensor(layer.var)]

    def oracle(x, gamma, beta):
        return F.batch_norm(x, *stored, gamma, beta, training=mode == "train", eps=1e-3)

    agree(layer, x, oracle=oracle, rng=rng, mode=mode)


def test_the_new_moments_of_batch_norm_are_those_of_the_batch(rng):
    x = image(rng)
    ones = np.ones(x.shape[3])
    _, moments = layers.BatchNorm(ones, ones, ones, ones).forward(x, mode="train")
    close(moments.mean, torch.tensor(x).mean(dim=(0, 1, 2)))
    close(moments.var, torch.tensor(x).var(dim=(0, 1, 2), correction=0))


def test_dropout_with_the_mask_of_torch_is_torchs(rng):
    x, rate, seed = image(rng), float(rng.uniform(0.1, 0.8)), int(rng.integers(1 << 30))

    def dropped(x):
        torch.manual_seed(seed)
        return F.dropout(x.permute(0, 2, 3, 1).contiguous(), rate).permute(0, 3, 1, 2)

    mask = dropped(torch.ones(x.shape, dtype=torch.float64).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    agree(layers.Dropout(rate, frozen=mask.numpy()), x, oracle=dropped, rng=rng, mode="train")


def test_dropout_in_test_mode_is_torchs(rng):
    agree(layers.Dropout(0.4), image(rng), oracle=lambda x: F.dropout(x, 0.4, training=False), rng=rng)


# Joins


def test_concat_is_torchs_cat_along_the_channels(rng):
    n, h, w = 2, *two(rng, 5, 9)
    maps = [distinct(rng, (n, h, w, int(c))) for c in rng.permutation(4)[: rng.integers(2, 5)] + 1]
    agree(layers.Concat(), *maps, oracle=lambda *xs: torch.cat(xs, dim=1), rng=rng)


def test_add_is_torchs_sum(rng):
    shape = image(rng).shape
    maps = [distinct(rng, shape) for _ in range(rng.integers(2, 5))]
    agree(layers.Add(), *maps, oracle=lambda *xs: torch.stack(xs).sum(dim=0), rng=rng)


def test_flatten_is_torchs_of_a_map_with_its_channels_last(rng):
    def oracle(x):
        return torch.flatten(x.permute(0, 2, 3, 1), start_dim=1)[:, :, None, None]

    agree(layers.Flatten(), image(rng), oracle=oracle, rng=rng)
