"""Losses: from scores and what they should have been to (value, dz/dscores).

Scores are (N, H, W, K); for a whole image H = W = 1. A value is the sum over images and places, divided by
the number of images N, ignored places and all (as in MatConvNet), so that the rate of learning depends not on
the batch size. `weights` make some images, (N,), or places, (N, H, W), count more.

Losses of classes take labels 0 … K-1, (N, H, W), or (N,) for all places alike; a place labelled `ignore` (-1)
adds nothing. Losses of yes and no take each score as a question of its own, with targets (N, H, W, K).
"""

from __future__ import annotations

from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError

ValueGrad = tuple[float, Array]
LEAST_PROBABILITY = 1e-8  # below it, log and its derivative are taken as if here


def cross_entropy(scores: Array, labels: Array, *, weights: Array = None, ignore: int = -1) -> ValueGrad:
    """Softmax and the logarithm of the right class's probability in one (softmaxloss).

        loss = log(sum over q of exp(s_q)) - s_label          gradient = softmax(s) - (1 at label, else 0)

    The largest score is subtracted first: the same loss, and no overflow.
    """
    xp, (label, here, weight) = xp_of(scores), _classes(scores, labels, weights, ignore)
    shifted = scores - scores.max(axis=3, keepdims=True)
    exps = xp.exp(shifted)
    sums = exps.sum(axis=3, keepdims=True)
    loss = xp.log(sums) - xp.take_along_axis(shifted, label, axis=3)
    return float((weight * loss).sum()), weight * (exps / sums - here)


def log_loss(probs: Array, labels: Array, *, weights: Array = None, ignore: int = -1) -> ValueGrad:
    """For a net that ends in Softmax.      loss = -log(p_label)          gradient = -1 / p_label at label

    Here p is taken as 1e-8 at least, so a class deemed impossible costs and pulls much, but not infinitely.
    """
    xp, (label, here, weight) = xp_of(probs), _classes(probs, labels, weights, ignore)
    p = xp.maximum(xp.take_along_axis(probs, label, axis=3), LEAST_PROBABILITY)
    return -float((weight * xp.log(p)).sum()), -weight * here / p


def multiclass_hinge(scores: Array, labels: Array, *, weights: Array = None, ignore: int = -1) -> ValueGrad:
    """loss = max(0, 1 - s_label)          gradient = -1 at label where the loss is above 0  (mhinge)

    The other classes are not looked at.
    """
    xp, (label, here, weight) = xp_of(scores), _classes(scores, labels, weights, ignore)
    lack = 1 - xp.take_along_axis(scores, label, axis=3)
    return float((weight * xp.maximum(lack, 0)).sum()), -weight * here * (lack > 0)


def structured_hinge(scores: Array, labels: Array, *, weights: Array = None, ignore: int = -1) -> ValueGrad:
    """The right class shall lead the best other one by 1 (Crammer & Singer 2001; MatConvNet's mshinge).

        loss = max(0, 1 - s_label + max over q ≠ label of s_q)      gradient = -1 at label, +1 at that q

    Of several best others, the first is pushed down.
    """
    xp, (label, here, weight) = xp_of(scores), _classes(scores, labels, weights, ignore)
    classes = scores.shape[3]
    if classes < 2:
        raise ShapeError("structured_hinge compares classes, and there is only 1; hinge takes a yes or no")
    others = xp.where(here, -xp.inf, scores)
    rival = others.argmax(axis=3)[..., None]
    lack = 1 - xp.take_along_axis(scores, label, axis=3) + xp.take_along_axis(scores, rival, axis=3)
    push = (xp.arange(classes) == rival).astype(scores.dtype) - here
    return float((weight * xp.maximum(lack, 0)).sum()), weight * push * (lack > 0)


def binary_cross_entropy(scores: Array, targets: Array, *, weights: Array = None) -> ValueGrad:
    """Of the probability sigmoid(s), for targets t from 0 (no) to 1 (yes).

        loss = max(s, 0) - s * t + log(1 + exp(-|s|))          gradient = sigmoid(s) - t

    That is -t log(sigmoid(s)) - (1 - t) log(1 - sigmoid(s)), written so that nothing overflows.
    """
    xp = xp_of(scores, targets, weights)
    targets = _targets(scores, targets)
    if bool(((targets < 0) | (targets > 1)).any()):
        raise UsageError("binary_cross_entropy wants targets from 0 to 1; for -1 and 1 there is logistic")
    loss = xp.maximum(scores, 0) - scores * targets + xp.log1p(xp.exp(-abs(scores)))
    weight = _shares(scores, weights, scores.shape)
    return float((weight * loss).sum()), weight * (_sigmoid(scores) - targets)


def logistic(scores: Array, signs: Array, *, weights: Array = None) -> ValueGrad:
    """loss = log(1 + exp(-c s))          gradient = -c * sigmoid(-c s)

    c is 1 for yes, -1 for no; 0 is ignored.
    """
    xp, (signs, weight) = xp_of(scores, signs, weights), _signs(scores, signs, weights)
    against = -signs * scores
    return float((weight * xp.logaddexp(0, against)).sum()), -weight * signs * _sigmoid(against)


def hinge(scores: Array, signs: Array, *, weights: Array = None) -> ValueGrad:
    """loss = max(0, 1 - c s)          gradient = -c where the loss is above 0

    c is 1 for yes, -1 for no; 0 is ignored.
    """
    xp, (signs, weight) = xp_of(scores, signs, weights), _signs(scores, signs, weights)
    lack = 1 - signs * scores
    return float((weight * xp.maximum(lack, 0)).sum()), -weight * signs * (lack > 0)


def l2(y: Array, target: Array, *, weights: Array = None) -> ValueGrad:
    """loss = ½ (y - target)²          gradient = y - target     (Caffe's EuclideanLoss)"""
    xp_of(y, target, weights)
    difference, weight = y - _targets(y, target), _shares(y, weights, y.shape)
    return 0.5 * float((weight * difference * difference).sum()), weight * difference


def squared_norm(x: Array) -> ValueGrad:
    """value = sum of x²          gradient = 2x

    A plain sum, not divided by anything: what a dream makes large, and weight decay small.
    """
    return float((x * x).sum()), 2 * x


def top_k_error(scores: Array, labels: Array, *, k: int = 1, ignore: int = -1) -> float:
    """The fraction of places, without the ignored, whose label is not among the k largest scores.

    Of equal scores the first class counts as the larger; NaN is never right. For looking at: no gradient.
    """
    xp, (label, _, weight) = xp_of(scores), _classes(scores, labels, None, ignore)
    classes = scores.shape[3]
    if not 1 <= k <= classes:
        raise UsageError(f"top_k_error with k={k}; of {classes} classes it can be 1 to {classes}")
    counted = weight > 0
    if not bool(counted.any()):
        raise UsageError(f"top_k_error: every label is {ignore}, which is ignored; nothing is left to count")
    own = xp.take_along_axis(scores, label, axis=3)
    ahead = ~(scores <= own) | ((scores == own) & (xp.arange(classes) < label))
    wrong = ahead.sum(axis=3, keepdims=True) >= k
    return float((wrong & counted).sum()) / float(counted.sum())


def _classes(scores: Array, labels: Array, weights: Array, ignore: int) -> tuple[Array, Array, Array]:
    """The labels (N, H, W, 1), where each class is the label (N, H, W, K), and weights / N (N, H, W, 1).

    Ignored places get label 0 and weight 0.
    """
    xp = xp_of(scores, labels, weights)
    *places, classes = _checked(scores).shape
    if labels.dtype.kind not in "iu":
        raise UsageError(f"labels are whole numbers, found {labels.dtype}; labels.astype(int) makes them so")
    label = _spread("labels", labels.astype("int64"), (*places, 1))
    counted = label != ignore
    if bool((counted & ((label < 0) | (label >= classes))).any()):
        found = f"labels go from {int(label.min())} to {int(label.max())}"
        raise UsageError(f"{found}; {classes} classes have 0 to {classes - 1}, ignored places {ignore}")
    label = xp.where(counted, label, 0)
    return label, xp.arange(classes) == label, _shares(scores, weights, (*places, 1)) * counted


def _signs(scores: Array, signs: Array, weights: Array) -> tuple[Array, Array]:
    signs = _targets(scores, signs)
    if not bool(((signs == -1) | (signs == 0) | (signs == 1)).all()):
        raise UsageError("signs are 1 for yes, -1 for no, 0 to ignore; of 0 and 1 they are 2 * targets - 1")
    return signs, _shares(scores, weights, scores.shape) * (signs != 0)


def _targets(scores: Array, targets: Array) -> Array:
    return _spread("targets", targets.astype(_checked(scores).dtype), scores.shape)


def _shares(scores: Array, weights: Array, shape: tuple[int, ...]) -> Array:
    """weights / N, or 1 / N."""
    given = xp_of(scores).ones(len(scores)) if weights is None else weights
    return _spread("weights", given.astype(scores.dtype), shape) / len(scores)


def _spread(name: str, given: Array, shape: tuple[int, ...]) -> Array:
    """Numbers given for each image, or for each place, to all that they stand for."""
    wide = given.reshape(given.shape + (1,) * (4 - given.ndim))
    fits = wide.ndim == 4 and all(wide.shape[axis] in (1, shape[axis]) for axis in (1, 2, 3))
    if not fits or len(wide) != shape[0]:
        found = f"{name} of shape {given.shape} for {shape[0]} images of {shape[1]} x {shape[2]} places"
        raise ShapeError(f"{found}; give one for each image, or for each place")
    return xp_of(given).broadcast_to(wide, shape)


def _checked(scores: Array) -> Array:
    if scores.ndim != 4 or scores.size == 0:
        raise ShapeError(f"scores are (N, H, W, K), found {scores.shape}; of (N, K): scores[:, None, None]")
    if scores.dtype.kind != "f":
        raise UsageError(f"scores are floating-point numbers, found {scores.dtype}; use scores.astype(float)")
    return scores


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + xp_of(x).tanh(0.5 * x))
