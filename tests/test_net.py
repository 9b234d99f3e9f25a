"""The engine: one image forward to any layer, gradients back from any layers, and what a run holds on to."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import layers as L
from minidnn.errors import StaleResError, UsageError
from minidnn.gradcheck import check_direction
from minidnn.net import Net, Node
from minidnn.window import Window
from tests.nets import every_layer, forked, photo, wholly_by


def ran(net, image, layer=None, **how):
    res = net.init_res()
    net.forwardto(res, layer or net.names[-1], image, **how)
    return res


def seeds_for(res, *names):
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(res[name].shape) for name in names}


def same_state(one, other):
    for name in one:
        for part in ("x", "aux", "dzdx"):
            a, b = getattr(one[name], part), getattr(other[name], part)
            assert (a is None) == (b is None), (name, part)
            assert a is None or np.array_equal(a, b), (name, part)


# Forward


def test_a_layer_goes_by_name_or_by_number(net, image):
    res = net.init_res()
    assert np.array_equal(net.forwardto(res, "pool1", image), net.forwardto(res, 3, image))
    assert res[3] is res["pool1"]
    assert res[0].x is res["data"].x
    assert net.names[3] == "pool1"


def test_only_what_the_target_needs_is_run(net, image):
    res = ran(net, image, "a")
    assert [name for name in res if res[name].x is not None] == ["data", "conv1", "relu1", "pool1", "a"]


def test_several_targets_come_as_a_dict(net, image):
    res = net.init_res()
    found = net.forwardto(res, ["a", 5], image)
    assert list(found) == ["a", "b"]
    assert found["b"] is res["b"].x


def test_forward_in_two_parts_is_the_whole_bit_for_bit(net, image):
    whole, parts = ran(net, image), ran(net, image, "pool1")
    net.forwardto(parts, "b")
    net.forwardto(parts, "out")
    same_state(whole, parts)


def test_without_an_image_what_is_there_stays(net, image):
    res = ran(net, image, "pool1")
    before = res["relu1"].x
    net.forwardto(res, "out")
    assert res["relu1"].x is before


def test_a_new_image_forgets_all_of_the_old_one(net, image):
    res = ran(net, image)
    net.backwardfrom(res, seeds_for(res, "out"))
    net.forwardto(res, "conv1", image + 1)
    assert res["relu1"].x is None and res["relu1"].aux is None and res["conv1"].dzdx is None


def test_start_runs_again_all_that_depends_on_an_edited_slot(net, image):
    res = ran(net, image)
    edited = res["pool1"].x.copy()
    edited[..., 1] = 0
    res["pool1"].x = edited
    y = net.forwardto(res, "out", start="pool1")
    by_hand = net.init_res()
    net.forwardto(by_hand, "pool1", image)
    by_hand["pool1"].x = edited
    assert np.array_equal(y, net.forwardto(by_hand, "out"))
    assert not np.array_equal(y, ran(net, image)["out"].x)


def test_start_empties_what_depends_on_it_beyond_the_target(net, image):
    res = ran(net, image)
    net.forwardto(res, "b", start="pool1")
    assert res["a"].x is None and res["out"].x is None


def test_the_run_keeps_time_and_counts_its_bytes(net, image):
    res = ran(net, image)
    net.backwardfrom(res, seeds_for(res, "out"), params=True)
    assert res["conv1"].seconds > 0 and res["conv1"].backward_seconds > 0
    assert res["relu1"].nbytes == 2 * res["relu1"].x.nbytes + res["relu1"].aux.nbytes
    assert res["relu1"].aux.nbytes == res["relu1"].x.size // 8, "a bit for each number"
    assert res["pool1"].nbytes == res["pool1"].x.nbytes + res["pool1"].aux.nbytes + res["pool1"].dzdx.nbytes
    assert res.nbytes == sum(slot.nbytes for slot in res.values()) + res.mem.nbytes


def test_image_sizes_may_change_from_run_to_run(net, image):
    res = ran(net, image)
    assert net.forwardto(res, "out", image[:, :6, :7]).shape == (2, 3, 3, 8)
    assert np.array_equal(net.forwardto(res, "out", image), ran(net, image)["out"].x)


def test_dropout_draws_by_the_rng_it_is_given(image):
    net = Net.chain({"drop": L.Dropout(0.5)})
    one, two = (ran(net, image, mode="train", rng=np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one["drop"].aux, two["drop"].aux)
    assert set(np.unique(one["drop"].aux)) == {0.0, 2.0}
    assert ran(net, image)["drop"].x is not None and ran(net, image)["drop"].aux is None


# Backward


def test_fork_join_two_seeds_and_a_shared_weight(net, image):
    res = ran(net, image)
    seeds = seeds_for(res, "out", "relu1")
    dzdx = net.backwardfrom(res, seeds, params=True)

    def z(net, image):
        run = ran(net, image)
        return float(sum((run[name].x * seed).sum() for name, seed in seeds.items()))

    rng = np.random.default_rng(0)
    assert check_direction(lambda x: z(net, x), image, dzdx, rng=rng, eps=1e-6).error < 1e-6
    for name, dzdw in net.gradients(res).items():
        found = check_direction(
            lambda w, n=name: z(net.replacing({n: w}), image), net.params[name], dzdw, rng=rng
        )
        assert found.error < 1e-6, (name, found)
    assert "twin/w" not in net.params
    assert np.array_equal(net.gradients(res)["a/w"], res["a"].dzdw["w"] + res["twin"].dzdw["w"])


def test_the_derivative_of_the_squared_norm_is_twice_the_response(net, image):
    """The course's question 2.1: with z = |x|² at a layer, dz/dx there is 2x."""
    res = ran(net, image, "pool1")
    x = res["pool1"].x
    assert (
        check_direction(lambda x: float((x * x).sum()), x, 2 * x, rng=np.random.default_rng(0)).error < 1e-8
    )


def test_a_step_along_the_gradient_raises_the_objective(net, image):
    """Question 2.2: forward, seed, back, and image += step * dzdx."""
    res = ran(net, image, "b")
    before = float((res["b"].x ** 2).sum())
    dzdx = net.backwardfrom(res, {"b": 2 * res["b"].x})
    after = float((net.forwardto(res, "b", image + 1e-3 * dzdx) ** 2).sum())
    assert after > before + 0.9e-3 * float((dzdx**2).sum())


def test_without_params_no_weight_gradient_is_made(net, image):
    res = ran(net, image)
    net.backwardfrom(res, seeds_for(res, "out"))
    assert all(not slot.dzdw for slot in res.values())


def test_backward_stopped_at_a_cut_and_gone_on_from_is_the_whole_bit_for_bit(net, image):
    whole, parts = ran(net, image), ran(net, image)
    seeds = seeds_for(whole, "out", "relu1")
    net.backwardfrom(whole, seeds, params=True)
    cut = net.backwardfrom(parts, {"out": seeds["out"]}, to=["a", "b", "twin"], params=True)
    assert list(cut) == ["a", "b", "twin"]
    assert parts["pool1"].dzdx is None and not parts["a"].dzdw
    net.backwardfrom(parts, cut | {"relu1": seeds["relu1"]}, params=True)
    same_state(whole, parts)
    for name in whole:
        assert all(np.array_equal(whole[name].dzdw[k], parts[name].dzdw[k]) for k in whole[name].dzdw)


def test_a_cut_through_a_residual_block_may_name_both_ends_of_its_shortcut():
    rng = np.random.default_rng(0)
    nodes = [
        Node("a", L.Conv.random(rng, 3, 3, 3, pad=1), ("data",)),
        Node("b", L.Conv.random(rng, 3, 3, 3, pad=1), ("a",)),
        Node("sum", L.Add(), ("a", "b")),
        Node("relu", L.ReLU(), ("sum",)),
    ]
    net = Net(nodes).astype("float64")
    image = rng.standard_normal((1, 5, 6, 3))
    whole, parts = ran(net, image), ran(net, image)
    seed = seeds_for(whole, "relu")
    net.backwardfrom(whole, seed, params=True)
    cut = net.backwardfrom(parts, seed, to=["a", "b"], params=True)
    assert np.array_equal(cut["a"], cut["b"]), "what comes through b is left for going on"
    net.backwardfrom(parts, cut, params=True)
    same_state({n: whole[n] for n in ("data", "a", "b")}, {n: parts[n] for n in ("data", "a", "b")})
    assert np.array_equal(whole["b"].dzdw["w"], parts["b"].dzdw["w"])


def test_an_earlier_way_back_leaves_nothing_behind(net, image):
    res = ran(net, image)
    net.backwardfrom(res, seeds_for(res, "out"), params=True)
    net.backwardfrom(res, seeds_for(res, "a"), to="pool1", params=True)
    assert res["data"].dzdx is None, "what is below the goal belongs to other seeds"
    assert list(net.gradients(res)) == ["a/w", "a/b"]
    assert np.array_equal(net.gradients(res)["a/w"], res["a"].dzdw["w"]), "without the twin's part of before"


def test_a_net_with_every_layer_splits_bit_for_bit_at_every_layer():
    net = every_layer()
    image = photo(net)
    whole = ran(net, image, list(net.names[-2:]))
    seeds = seeds_for(whole, *net.names[-2:])
    wanted = net.backwardfrom(whole, seeds)
    for name in ["grouped", "add", "pool3"]:
        parts = ran(net, image, name)
        net.forwardto(parts, list(net.names[-2:]))
        at_cut = net.backwardfrom(parts, seeds, to=name)
        assert np.array_equal(at_cut, whole[name].dzdx)
        assert np.array_equal(net.backwardfrom(parts, {name: at_cut}), wanted)


def test_to_none_makes_the_weights_gradients_and_spares_the_image(net, image):
    res, full = ran(net, image), ran(net, image)
    seeds = seeds_for(res, "out")
    assert net.backwardfrom(res, seeds, params=True, to=None) is None
    net.backwardfrom(full, seeds, params=True)
    assert res["data"].dzdx is None
    for name, dzdw in net.gradients(full).items():
        assert np.array_equal(net.gradients(res)[name], dzdw)


def test_accumulate_adds_up_the_sub_batches(net, image):
    whole, parts = ran(net, image), net.init_res()
    seed = seeds_for(whole, "out")["out"]
    net.backwardfrom(whole, {"out": seed}, params=True)
    for i in range(2):
        net.forwardto(parts, "out", image[i : i + 1])
        net.backwardfrom(parts, {"out": seed[i : i + 1]}, params=True, accumulate=i > 0)
    for name, dzdw in net.gradients(whole).items():
        assert np.allclose(net.gradients(parts)[name], dzdw, rtol=1e-12, atol=1e-12)


def test_going_back_twice_gives_the_same(net, image):
    res = ran(net, image)
    seeds = seeds_for(res, "out", "relu1")
    once = net.backwardfrom(res, seeds, params=True)
    first = net.gradients(res)
    assert np.array_equal(net.backwardfrom(res, seeds, params=True), once)
    assert all(np.array_equal(first[name], again) for name, again in net.gradients(res).items())


def test_a_layer_that_reads_one_slot_twice_gets_its_gradient_twice():
    net = Net([Node("tanh", L.Tanh(), ("data",)), Node("twice", L.Add(), ("tanh", "tanh"))])
    image = np.random.default_rng(0).standard_normal((1, 2, 3, 4))
    res = ran(net, image)
    seed = np.ones_like(image)
    assert np.allclose(net.backwardfrom(res, {"twice": seed}), 2 * (1 - np.tanh(image) ** 2))


def test_the_mode_of_the_way_back_is_that_of_the_way_forward():
    norm = L.BatchNorm(np.ones(3), np.zeros(3), np.zeros(3), np.ones(3))
    net = Net.chain({"bn": norm})
    image = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
    seed = {"bn": np.random.default_rng(1).standard_normal(image.shape)}
    test, train = (net.backwardfrom(ran(net, image, mode=mode), seed) for mode in ("test", "train"))
    assert np.allclose(test, seed["bn"] / np.sqrt(1 + 1e-5))
    assert np.allclose(train.sum(axis=(0, 1, 2)), 0, atol=1e-12), "the batch takes its own mean away"


# What is kept


@pytest.mark.parametrize("mode", ["test", "train"])
@pytest.mark.parametrize("make", [forked, every_layer])
def test_needed_drops_what_no_signature_names_and_the_gradients_stay(make, mode):
    net = make()
    image = photo(net)
    ends = [name for name in net.names if not net.descendants([name])]
    kept, lean = (
        ran(net, image, ends, mode=mode, rng=np.random.default_rng(5), keep=keep)
        for keep in ("all", "needed")
    )
    seeds = seeds_for(kept, *ends)
    wanted = net.backwardfrom(kept, seeds, params=mode == "train")
    assert sum(slot.nbytes for slot in lean.values()) < sum(slot.nbytes for slot in kept.values())
    assert np.array_equal(net.backwardfrom(lean, seeds, params=mode == "train"), wanted)
    for name, dzdw in net.gradients(kept).items():
        assert np.array_equal(net.gradients(lean)[name], dzdw)


def test_needed_forgets_the_inputs_of_convolutions_and_pools(net, image):
    res = ran(net, image, keep="needed")
    assert [name for name in res if res[name].x is not None] == ["data", "out"]
    assert res["relu1"].aux is not None and res["pool1"].aux is not None
    assert res["conv1"].shape == (2, 8, 10, 4)


def test_names_keep_just_these(net, image):
    res = ran(net, image, keep=["conv1", 4])
    assert [name for name in res if res[name].x is not None] == ["data", "conv1", "a", "out"]
    assert res["pool1"].aux is None


def test_needed_among_the_names_keeps_both(net, image):
    res = ran(net, image, keep=["needed", "pool1"])
    assert [name for name in res if res[name].x is not None] == ["data", "pool1", "out"]


def test_what_was_dropped_is_made_again_when_asked_for(net, image):
    res = ran(net, image, "pool1", keep=[])
    assert np.array_equal(net.forwardto(res, "out"), ran(net, image)["out"].x)


# Other ways to build one


def test_a_chain_reads_the_layer_before():
    net = Net.chain({"relu": L.ReLU(), "pool": L.MaxPool(Window.of(2))}, input="pixels")
    assert [node.inputs for node in net.nodes] == [("pixels",), ("relu",)]
    assert net.names == ("pixels", "relu", "pool")


def test_one_net_serves_two_runs_at_once(net, image):
    one, two = net.init_res(), net.init_res()
    net.forwardto(one, "pool1", image)
    net.forwardto(two, "out", image + 1)
    net.forwardto(one, "out")
    assert np.array_equal(one["out"].x, ran(net, image)["out"].x)


def test_fully_connected_layers_become_convolutions_that_slide():
    rng = np.random.default_rng(0)
    net = Net.chain(
        {
            "conv": L.Conv.random(rng, 3, 3, 4, stride=2),
            "fc1": L.FC.random(rng, (3, 4, 4), 6),
            "relu": L.ReLU(),
            "fc2": L.FC.random(rng, (1, 1, 6), 5),
        },
        input_shape=(7, 9, 3),
    ).astype("float64")
    sliding, image = net.as_convolutional(), rng.standard_normal((2, 11, 9, 3))
    scores = ran(sliding, image)["fc2"].x
    assert scores.shape == (2, 3, 1, 5)
    for i in range(3):
        alone = ran(net, image[:, 2 * i : 2 * i + 7])["fc2"].x
        assert np.allclose(scores[:, i : i + 1], alone, rtol=1e-12)
    assert sliding.node("fc1").layer.w.base is not None, "the weights are the same memory"


def test_what_stands_between_flattening_and_fc_slides_too():
    rng = np.random.default_rng(0)
    layers = {
        "flat": L.Flatten(),
        "relu": L.ReLU(),
        "drop": L.Dropout(),
        "fc": L.FC.random(rng, (1, 1, 2 * 3 * 4), 5),
    }
    sliding = Net.chain(layers, input_shape=(2, 3, 4)).as_convolutional()
    assert ran(sliding, rng.standard_normal((1, 4, 3, 4)))["fc"].x.shape == (1, 3, 1, 5)
    with pytest.raises(
        UsageError, match="'prob' is a Softmax that reads the flat 'flat', which cannot slide"
    ):
        Net.chain({"flat": L.Flatten(), "prob": L.Softmax()}, input_shape=(2, 3, 4)).as_convolutional()


def test_a_flat_end_stays_where_it_is():
    nodes = [Node("flat", L.Flatten(), ("data",)), Node("relu", L.ReLU(), ("data",))]
    assert Net(nodes, input_shape=(2, 3, 4)).as_convolutional().names == ("data", "flat", "relu")


def test_a_flattened_map_is_unflattened_on_the_way_to_a_convolution():
    rng = np.random.default_rng(0)
    layers = {"flat": L.Flatten(), "fc": L.FC.random(rng, (1, 1, 2 * 3 * 4), 5)}
    net = Net.chain(layers, input_shape=(2, 3, 4))
    sliding, image = net.as_convolutional(), rng.standard_normal((1, 2, 3, 4))
    assert sliding.names == ("data", "fc")
    assert np.allclose(ran(sliding, image)["fc"].x, ran(net, image)["fc"].x)
    with pytest.raises(UsageError, match="'fc' reads the flat 'flat': give the net its input_shape"):
        Net.chain(layers).as_convolutional()


# Runs that cannot be gone on with


def test_dropped_state_says_so_on_the_way_back(net, image):
    res = ran(net, image, keep=[])
    with pytest.raises(
        StaleResError, match="what 'pool1' remembered was dropped: forwardto with the image"
    ) as caught:
        net.backwardfrom(res, {"pool1": np.zeros(res["pool1"].shape)})
    assert "in layer 'pool1', reading 'relu1'" in caught.value.__notes__
    res = ran(net, image, keep="needed")
    with pytest.raises(
        StaleResError, match="x of slot 'pool1' was dropped: forwardto with the image again, and keep"
    ):
        net.backwardfrom(res, seeds_for(res, "out"), params=True)


def test_a_training_run_does_not_draw_again_what_it_dropped(net, image):
    res = ran(net, image, "a", keep=[], mode="train")
    with pytest.raises(StaleResError, match="run again in training it would not be the same"):
        net.forwardto(res, "b", mode="train")


# Convolution and ReLU in one


def test_a_relu_behind_a_convolution_that_no_one_looks_at_is_done_on_the_way(net, image):
    for kernels in ("im2col", "chunked", "winograd2", "winograd4"):
        fast = wholly_by(kernels, net)
        kept, lean = ran(fast, image), ran(fast, image, keep=["needed", "relu1"])
        assert lean["conv1"].x is None and lean["conv1"].shape == (2, 8, 10, 4)
        assert lean["relu1"].seconds == 0, "it did not run by itself"
        assert np.array_equal(lean["relu1"].x, kept["relu1"].x)
        seeds = seeds_for(kept, "out", "relu1")
        assert np.array_equal(fast.backwardfrom(lean, seeds), fast.backwardfrom(kept, seeds))


def test_a_convolution_that_is_kept_or_read_twice_is_not(net, image):
    assert ran(net, image, keep=["needed", "conv1"])["conv1"].x.min() < 0
    nodes = [*net.nodes[:2], Node("neg", L.LeakyReLU(), ("conv1",)), Node("sum", L.Add(), ("relu1", "neg"))]
    forked = Net(nodes, input_shape=net.input_shape)
    whole, lean = ran(forked, image), ran(forked, image, keep="needed")
    assert np.array_equal(lean["sum"].x, whole["sum"].x)
    assert np.array_equal(lean["neg"].x if lean["neg"].x is not None else whole["neg"].x, whole["neg"].x)


def test_gradients_that_no_one_looks_at_are_let_go(net, image):
    res = ran(net, image, keep=["needed", "pool1"])
    net.backwardfrom(res, seeds_for(res, "out"))
    assert [name for name in res if res[name].dzdx is not None] == ["data", "pool1", "out"]
