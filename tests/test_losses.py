"""Losses against their own numeric gradients, against numbers worked by hand, and against torch's."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import losses
from minidnn.arrays import to_device, to_host
from minidnn.errors import DeviceError, ShapeError, UsageError
from minidnn.gradcheck import check_elements
from tests.fakedevice import fake
from tests.samples import distinct

OF_CLASSES = ["cross_entropy", "log_loss", "multiclass_hinge", "structured_hinge"]
OF_SIGNS = ["logistic", "hinge"]
OF_TARGETS = ["binary_cross_entropy", "l2"]
ALL = OF_CLASSES + OF_SIGNS + OF_TARGETS
SEEDS = range(24)


def question(name, seed, *, dtype="float64"):
    """A loss, scores of some size for it, what they should have been, and weights or none."""
    rng = np.random.default_rng([seed, len(name)])
    places = (1, 1) if seed % 3 == 0 else tuple(rng.integers(1, 5, 2))
    n, k = int(rng.integers(1, 5)), int(rng.integers(2, 7))
    # a ladder shifted off its corners: no two scores tie, and none is just 1 apart from another or from 0
    scores = distinct(rng, (n, *places, k)) * 1.31 + 0.0137
    if name == "log_loss":
        scores = np.exp(scores / 4) / np.exp(scores / 4).sum(axis=3, keepdims=True)
    shape = (n,) if seed % 2 else (n, *places)
    if name in OF_CLASSES:
        answers = rng.integers(-1, k, shape)  # -1 here and there: ignored
    elif name in OF_SIGNS:
        answers = rng.integers(-1, 2, scores.shape)
    else:
        answers = rng.random(scores.shape)
    weights = rng.random(shape) if seed % 4 > 1 else None
    scores = scores.astype(dtype)
    return getattr(losses, name), scores, answers, weights


def cells(name):
    return [pytest.param(name, seed, id=f"{name}-{seed}") for seed in SEEDS]


def scores_of(*rows):
    """One image for each row, one place in each."""
    return np.array(rows, float)[:, None, None, :]


@pytest.mark.parametrize("name, seed", [cell for name in ALL for cell in cells(name)])
def test_the_gradient_is_that_of_the_value(name, seed):
    loss, scores, answers, weights = question(name, seed)
    grad = loss(scores, answers, weights=weights)[1]
    check = check_elements(
        lambda s: loss(s, answers, weights=weights)[0], scores, grad, eps=1e-5 * float(np.abs(scores).min())
    )
    # Values near 1 carry rounding of 1e-16, which eps makes 1e-9 or so
    assert check.error < 1e-5 or not grad.any(), str(check)


def test_the_gradient_of_the_squared_norm_is_twice_x():
    x = distinct(np.random.default_rng(0), (2, 3, 1, 4))
    value, grad = losses.squared_norm(x)
    assert value == pytest.approx(np.linalg.norm(x) ** 2)
    assert check_elements(lambda x: losses.squared_norm(x)[0], x, grad).error < 1e-7


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_has_the_shape_and_dtype_of_the_scores(name):
    for dtype in ["float32", "float64"]:
        loss, scores, answers, weights = question(name, 2, dtype=dtype)
        value, grad = loss(scores, answers, weights=weights)
        assert isinstance(value, float)
        assert (grad.shape, grad.dtype) == (scores.shape, dtype)


@pytest.mark.parametrize("name", ALL)
def test_nothing_that_is_given_is_changed(name):
    loss, *given = question(name, 3)
    for array in given:
        if array is not None:
            array.flags.writeable = False
    scores, answers, weights = given
    first, again = loss(scores, answers, weights=weights), loss(scores, answers, weights=weights)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("name", ALL)
def test_every_device_computes_the_same(name, device):
    loss, scores, answers, weights = question(name, 7, dtype="float32")
    value, grad = loss(scores, answers, weights=weights)
    there = [None if array is None else to_device(array, device) for array in (scores, answers, weights)]
    value_there, grad_there = loss(there[0], there[1], weights=there[2])
    assert value_there == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(to_host(grad_there), grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_twice_the_batch_has_the_same_value_and_half_the_gradient_each(name):
    loss, scores, answers, _ = question(name, 6)
    value, grad = loss(scores, answers)
    value_twice, grad_twice = loss(np.concatenate([scores, scores]), np.concatenate([answers, answers]))
    assert value_twice == pytest.approx(value)
    np.testing.assert_allclose(grad_twice, np.concatenate([grad, grad]) / 2)


@pytest.mark.parametrize("name", ALL)
def test_a_weight_counts_like_that_many_images(name):
    loss, scores, answers, _ = question(name, 9)
    n = len(scores)
    tripled = loss(np.concatenate([scores] * 3), np.concatenate([answers] * 3))[0] * 3
    assert loss(scores, answers, weights=np.full(n, 3.0))[0] == pytest.approx(tripled)
    assert loss(scores, answers, weights=np.zeros(n))[0] == 0


@pytest.mark.parametrize("name", OF_CLASSES)
def test_an_ignored_place_adds_nothing_and_yet_counts_in_n(name):
    loss, scores, labels, _ = question(name, 4)
    labels = np.zeros(scores.shape[:3], int)
    value, grad = loss(scores, labels)
    labels[0, 0, 0] = -1
    value_without, grad_without = loss(scores, labels)
    alone = loss(scores[:1, :1, :1], np.zeros(1, int))[0] / len(scores)
    assert value_without == pytest.approx(value - alone)
    assert not grad_without[0, 0, 0].any()
    np.testing.assert_array_equal(
        grad_without.reshape(-1)[scores.shape[3] :], grad.reshape(-1)[scores.shape[3] :]
    )


@pytest.mark.parametrize("name", OF_CLASSES)
def test_another_label_can_mean_ignore(name):
    loss, scores, _, _ = question(name, 4)
    marked, usual = np.zeros(scores.shape[:3], int), np.zeros(scores.shape[:3], int)
    marked[0, 0, 0], usual[0, 0, 0] = 255, -1
    np.testing.assert_array_equal(loss(scores, marked.astype("uint8"), ignore=255)[1], loss(scores, usual)[1])


@pytest.mark.parametrize("name", OF_CLASSES)
def test_one_label_for_an_image_is_that_of_all_its_places(name):
    loss, scores, _, _ = question(name, 5)
    labels = np.arange(len(scores)) % scores.shape[3]
    spread = np.broadcast_to(labels[:, None, None], scores.shape[:3])
    assert loss(scores, labels)[0] == loss(scores, spread)[0]
    np.testing.assert_array_equal(loss(scores, labels)[1], loss(scores, spread)[1])


@pytest.mark.parametrize("name", OF_SIGNS)
def test_a_sign_of_0_is_ignored(name):
    value, grad = getattr(losses, name)(scores_of([3, -0.5]), np.array([[[[0, 1]]]]))
    alone = getattr(losses, name)(scores_of([-0.5]), np.array([1]))
    assert value == alone[0]
    np.testing.assert_array_equal(grad.ravel(), [0, *alone[1].ravel()])


def test_cross_entropy_worked_by_hand():
    value, grad = losses.cross_entropy(scores_of([0, np.log(3)]), np.array([0]))
    assert value == pytest.approx(np.log(4))  # p = 1/4, 3/4
    np.testing.assert_allclose(grad.ravel(), [-0.75, 0.75])


def test_cross_entropy_is_log_loss_after_softmax():
    _, scores, labels, weights = question("cross_entropy", 11)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=3, keepdims=True)
    one = losses.cross_entropy(scores, labels, weights=weights)[0]
    assert one == pytest.approx(losses.log_loss(probabilities, labels, weights=weights)[0])


def test_cross_entropy_of_huge_scores_stays_finite():
    value, grad = losses.cross_entropy(scores_of([1e4, -1e4, 0]).astype("float32"), np.array([1]))
    assert value == 2e4
    np.testing.assert_array_equal(grad.ravel(), [1, -1, 0])


def test_log_loss_of_an_impossible_class_is_large_and_finite():
    value, grad = losses.log_loss(scores_of([0, 1]), np.array([0]))
    assert value == pytest.approx(-np.log(1e-8))
    np.testing.assert_allclose(grad.ravel(), [-1e8, 0])


def test_the_yes_and_no_losses_of_huge_scores_stay_finite():
    far = scores_of([1000, -1000]).astype("float32")
    assert losses.binary_cross_entropy(far, np.array([[[[0, 1]]]]))[0] == 2000
    assert losses.logistic(far, np.array([[[[-1, 1]]]]))[0] == 2000
    assert losses.logistic(far, np.array([[[[1, -1]]]]))[0] == 0


def test_binary_cross_entropy_and_logistic_are_one_loss_in_two_spellings():
    _, scores, signs, _ = question("logistic", 8)
    signs[signs == 0] = 1
    one, other = losses.logistic(scores, signs), losses.binary_cross_entropy(scores, (signs + 1) / 2)
    assert one[0] == pytest.approx(other[0])
    np.testing.assert_allclose(one[1], other[1], atol=1e-12)


def test_hinges_worked_by_hand():
    assert losses.hinge(scores_of([0.25, 3, -2]), np.array([[[[1, 1, 1]]]]))[0] == 0.75 + 0 + 3
    value, grad = losses.multiclass_hinge(scores_of([0.25, 9, 0]), np.array([0]))
    assert value == 0.75
    np.testing.assert_array_equal(grad.ravel(), [-1, 0, 0])
    value, grad = losses.structured_hinge(scores_of([0.25, 2, 3]), np.array([0]))
    assert value == 1 - 0.25 + 3
    np.testing.assert_array_equal(grad.ravel(), [-1, 0, 1])


def test_structured_hinge_is_silent_once_the_lead_is_1_and_pushes_the_first_of_equal_rivals():
    value, grad = losses.structured_hinge(scores_of([5, 4, 4], [5, 4.5, 4.5]), np.array([0, 0]))
    assert value == 0.25
    np.testing.assert_array_equal(grad.reshape(2, 3), [[0, 0, 0], [-0.5, 0.5, 0]])


def test_l2_worked_by_hand():
    value, grad = losses.l2(scores_of([3, 1], [0, 0]), scores_of([1, 1], [0, 4]))
    assert value == (0.5 * 4 + 0.5 * 16) / 2
    np.testing.assert_array_equal(grad.reshape(2, 2), [[1, 0], [0, -2]])


def test_top_1_and_top_5_errors_worked_by_hand():
    scores = scores_of([9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4])
    labels = np.array([0, 1, 4, 5])
    assert losses.top_k_error(scores, labels) == 3 / 4
    assert losses.top_k_error(scores, labels, k=5) == 1 / 4
    assert losses.top_k_error(scores, labels, k=6) == 0


def test_the_top_k_error_leaves_ignored_places_out():
    scores = scores_of([1, 0], [1, 0], [1, 0])
    assert losses.top_k_error(scores, np.array([0, 1, -1])) == 1 / 2


def test_of_equal_scores_only_the_first_is_at_the_top():
    scores = np.zeros((3, 1, 1, 3))
    assert losses.top_k_error(scores, np.arange(3)) == 2 / 3
    assert losses.top_k_error(scores, np.zeros(3, int)) == 0
    assert losses.top_k_error(scores, np.arange(3), k=2) == 1 / 3


def test_a_net_that_says_nan_is_never_right():
    assert losses.top_k_error(scores_of([np.nan, np.nan], [0, np.nan]), np.array([0, 0]), k=1) == 1
    assert losses.top_k_error(scores_of([np.nan, np.nan]), np.array([0]), k=2) == 1


def test_the_top_k_error_is_the_same_on_every_device(device):
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((4, 3, 2, 9)), rng.integers(-1, 9, (4, 3, 2))
    there = losses.top_k_error(to_device(scores, device), to_device(labels, device), k=3)
    assert there == losses.top_k_error(scores, labels, k=3)


def test_errors_say_what_is_wrong_and_what_to_do():
    scores = np.zeros((4, 2, 3, 5))
    labels = np.zeros(4, int)
    with pytest.raises(UsageError, match="labels go from 0 to 5; 5 classes have 0 to 4, ignored places -1"):
        losses.cross_entropy(scores, np.array([0, 1, 2, 5]))
    with pytest.raises(UsageError, match="labels go from -2 to 0"):
        losses.cross_entropy(scores, np.array([0, 0, -2, 0]))
    with pytest.raises(UsageError, match=r"labels are whole numbers, found float64; labels.astype\(int\)"):
        losses.cross_entropy(scores, labels.astype(float))
    with pytest.raises(ShapeError, match=r"labels of shape \(3,\) for 4 images of 2 x 3 places; give one"):
        losses.cross_entropy(scores, labels[:3])
    with pytest.raises(ShapeError, match=r"labels of shape \(1,\) for 4 images"):
        losses.cross_entropy(scores, labels[:1])
    with pytest.raises(ShapeError, match=r"labels of shape \(4, 3, 2\) for 4 images of 2 x 3 places"):
        losses.cross_entropy(scores, np.zeros((4, 3, 2), int))
    with pytest.raises(ShapeError, match=r"weights of shape \(5,\) for 4 images"):
        losses.cross_entropy(scores, labels, weights=np.ones(5))
    with pytest.raises(ShapeError, match=r"scores are \(N, H, W, K\), found \(4, 5\); of \(N, K\)"):
        losses.cross_entropy(np.zeros((4, 5)), labels)
    with pytest.raises(ShapeError, match=r"found \(0, 1, 1, 3\)"):
        losses.l2(np.zeros((0, 1, 1, 3)), np.zeros((0, 1, 1, 3)))
    with pytest.raises(UsageError, match="scores are floating-point numbers, found int64"):
        losses.cross_entropy(scores.astype("int64"), labels)
    with pytest.raises(ShapeError, match=r"targets of shape \(4, 2, 3, 4\) for 4 images"):
        losses.l2(scores, scores[..., 1:])
    with pytest.raises(UsageError, match="targets from 0 to 1; for -1 and 1 there is logistic"):
        losses.binary_cross_entropy(scores, -np.ones(4))
    with pytest.raises(UsageError, match=r"signs are 1 for yes, -1 for no.*2 \* targets - 1"):
        losses.hinge(scores, np.full(4, 2))
    with pytest.raises(ShapeError, match="there is only 1; hinge takes a yes or no"):
        losses.structured_hinge(scores[..., :1], labels)
    with pytest.raises(UsageError, match="k=6; of 5 classes it can be 1 to 5"):
        losses.top_k_error(scores, labels, k=6)
    with pytest.raises(UsageError, match="every label is -1, which is ignored"):
        losses.top_k_error(scores, labels - 1)
    with pytest.raises(UsageError, match="wanted an array, found list"):
        losses.cross_entropy(scores, [0, 0, 0, 0])


@pytest.mark.parametrize("name", ALL)
def test_host_labels_do_not_meet_device_scores(name):
    loss, scores, answers, _ = question(name, 2)
    with pytest.raises(DeviceError, match=r"device array .* meets host array"):
        loss(fake.put(scores), answers)


def torch_of(name, seed):
    """What torch makes of the same question: its own loss where it has one, else our formula in its words."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    _, scores, answers, weights = question(name, seed)
    s = torch.tensor(scores, requires_grad=True)
    n, *places, k = scores.shape
    right_pad = (..., *[None] * (4 - answers.ndim))
    if name in OF_CLASSES:
        labels = torch.tensor(np.broadcast_to(answers[right_pad][..., 0], (n, *places)).copy())
        rows, flat = s.reshape(-1, k), labels.reshape(-1)
        if name == "cross_entropy":
            each = functional.cross_entropy(rows, flat, ignore_index=-1, reduction="none")
        elif name == "log_loss":
            each = functional.nll_loss(torch.log(rows), flat, ignore_index=-1, reduction="none")
        else:
            own = rows.gather(1, flat.clamp(min=0)[:, None])[:, 0]
            one_hot = functional.one_hot(flat.clamp(min=0), k).bool()
            rival = rows.masked_fill(one_hot, -torch.inf).amax(dim=1) if name == "structured_hinge" else 0
            each = functional.relu(1 - own + rival) * (flat >= 0)
        each = each.reshape(n, *places, 1)
    else:
        targets = torch.tensor(answers, dtype=torch.float64)
        each = {
            "binary_cross_entropy": lambda: functional.binary_cross_entropy_with_logits(
                s, targets, reduction="none"
            ),
            "logistic": lambda: functional.soft_margin_loss(s, targets, reduction="none") * (targets != 0),
            "hinge": lambda: functional.relu(1 - s * targets) * (targets != 0),
            "l2": lambda: 0.5 * functional.mse_loss(s, targets, reduction="none"),
        }[name]()
    if weights is not None:
        each = each * torch.tensor(weights[(..., *[None] * (4 - weights.ndim))])
    value = each.sum() / n
    value.backward()
    return value.item(), s.grad.numpy()


@pytest.mark.oracle
@pytest.mark.parametrize("name, seed", [cell for name in ALL for cell in cells(name)])
def test_torch_finds_the_same_value_and_gradient(name, seed):
    loss, scores, answers, weights = question(name, seed)
    value, grad = loss(scores, answers, weights=weights)
    value_there, grad_there = torch_of(name, seed)
    assert value == pytest.approx(value_there, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(grad, grad_there, rtol=1e-9, atol=1e-12)
