"""A student: the small built-in net learns to see as a large net sees, from a random start of its own.

    python examples/student.py --teacher vgg16.h5 --data cifar10 --photos holidays -o student --minutes 15

The teacher looks at everything twice as large as the student does. Then what it has at every eighth pixel the
student has at every fourth, and both see about as much of the picture there. Between the two a convolution of
1x1 translates from the student's channels to the teacher's; what it cannot tell is the loss. At the same time
the student learns the classes of the labelled pictures. In the end the translators are thrown away.

The teacher also shows what it dreams of: pictures in which there is more of a thing than in any photo.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

from minidnn import images, losses, weights, zoo
from minidnn.errors import MinidnnError, UsageError
from minidnn.graph import Handle, Node
from minidnn.kernels.cpu.threads import CREW
from minidnn.layers import BatchNorm, Conv
from minidnn.net import Net
from minidnn.optim import Adam
from minidnn.recipes.deepdream import DeepDream, deepdream
from minidnn.res import Res
from minidnn.train import checkpoint
from minidnn.train.augment import Crop, Flip, applied
from minidnn.train.data import DataSet, check_answers, split
from minidnn.train.fit import State
from minidnn.train.judging import evaluate, preprocess_of
from minidnn.train.opening import open_data
from minidnn.train.pictures import ENDINGS
from minidnn.train.schedules import Cosine
from minidnn.window import Window

PAIRS = {"relu4": "relu3_3", "relu7": "relu4_3", "relu8": "relu5_1"}  # what each layer learns to tell
DREAMT = ("conv3_3", "conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2")  # layers that the teacher shows
SIDE = 32  # pixels, as the student sees a picture
VIEW = 2 * SIDE  # as the teacher does
HALF = 32  # pictures of a batch that the teacher knows, and as many with labels
IMITATION = 20.0  # how much more it weighs to see as the teacher does than to know the class
RATE = 3e-3
NORM_SHARE = 0.05  # by which the stored moments of a batch norm move towards those of each batch
LOUDEST = 8.0  # deviations: what is louder is taken for that
AT_ONCE = 50  # views that the teacher is shown together
BAR = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
Source = list[Path] | DataSet
Bank = dict[str, np.ndarray]  # "views", and by the teacher's layers what it saw in them


def dreamt(teacher: Net, folder: Path, count: int, *, size: int = 160) -> list[Path]:
    """Pictures of what single channels of the teacher want, each dreamed once and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(tqdm(paths, "dreaming", unit="picture")):
        if path.exists():
            continue
        rng, layer = np.random.default_rng([0xD, number]), DREAMT[number % len(DREAMT)]
        channel = rng.integers(teacher.shapes((1, VIEW, VIEW, 3), upto=[layer])[layer][3])
        settings = DeepDream(layers=(layer,), objective=f"channel:{channel}", octaves=2, steps=10, rate=4.0)
        noise = rng.normal(127.5, 12, (1, size, size, 3)).astype(np.float32)
        *_, last = deepdream(teacher, noise, settings)
        images.save(path, last.picture)
    return paths


def pictures_in(folder: str) -> list[Path]:
    found = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in ENDINGS]
    if not found:
        raise UsageError(f"{folder}: no pictures in it ({', '.join(ENDINGS)}); name another folder")
    return found


def views(sources: Sequence[Source], count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """As many squares (VIEW, VIEW, 3) of every source, from anywhere on its pictures and of many sizes."""
    for source in sources:
        wanted = max(1, count // len(sources))
        each = -(-wanted // len(source))
        for number in rng.permutation(len(source))[: wanted // each]:
            one = images.load(source[number]) if isinstance(source, list) else source.batch(number[None])
            short = min(one.shape[1:3])
            for side in rng.integers(min(short, max(VIEW, short // 4)), short + 1, each):
                top, left = (rng.integers(0, length - side + 1) for length in one.shape[1:3])
                part = images.resize(one[:, top : top + side, left : left + side], (VIEW, VIEW))
                yield np.rint(part[0, :, :: rng.choice([-1, 1])].clip(0, 255)).astype(np.uint8)


def ask(teacher: Net, sources: Sequence[Source], count: int, folder: Path, *, seed: int) -> None:
    """Show the teacher views of all there is, and write down what it sees: mean 0, deviation 1 by channel."""
    rng = np.random.default_rng([seed, 0xB])
    shown = np.stack([*views(sources, count, rng)])
    rng.shuffle(shown)
    shapes = teacher.shapes(shown.shape, upto=PAIRS.values())
    folder.mkdir(parents=True, exist_ok=True)
    create = partial(np.lib.format.open_memmap, mode="w+", dtype=np.float16)
    files = {name: create(folder / f"{name}.npy", shape=shapes[name]) for name in PAIRS.values()}
    res, preprocess, moments = teacher.init_res(), preprocess_of(teacher), dict[str, list[np.ndarray]]()
    for at in tqdm(range(0, len(shown), AT_ONCE), "asking the teacher", unit="batch"):
        x = preprocess.to_net(shown[at : at + AT_ONCE])
        for name, y in teacher.forwardto(res, list(files), x, keep=()).items():
            if name not in moments:  # the views are shuffled, so the first of them stand for all
                moments[name] = [y.mean(axis=(0, 1, 2)), y.std(axis=(0, 1, 2)) + 1e-3 * y.std()]
            mean, std = moments[name]
            files[name][at : at + AT_ONCE] = ((y - mean) / std).clip(-LOUDEST, LOUDEST)
    np.save(folder / "views.npy", shown)  # last: without it, what lies there was not finished


def bank_of(teacher: Net, data: DataSet, folder: Path, args: argparse.Namespace) -> Bank:
    """What the teacher said, mapped from its files; if it was not asked yet, it is now."""
    if not (folder / "bank" / "views.npy").exists():
        sources: list[Source] = [data, *(pictures_in(photos) for photos in args.photos)]
        if args.dreams:
            sources.append(dreamt(teacher, folder / "dreams", args.dreams))
        ask(teacher, sources, args.views, folder / "bank", seed=args.seed)
    return {name: np.load(folder / "bank" / f"{name}.npy", "r") for name in ("views", *PAIRS.values())}


def beginner(teacher: Net, data: DataSet, seed: int) -> Net:
    """The student with random weights, and a translator behind each layer that imitates."""
    net = zoo.get("tiny", seed=seed, batch_norms=True)
    check_answers(len(net.classes), data)
    own, others = net.shapes((1, SIDE, SIDE, 3)), teacher.shapes((1, VIEW, VIEW, 3), upto=PAIRS.values())
    nodes = list(net.nodes)
    for name, other in PAIRS.items():
        (_, h, w, c), (_, *grid, k) = own[name], others[other]
        if grid != [h, w]:
            found = f"the student's {name!r} has maps of {h}x{w}, the teacher's {other!r} of {grid}"
            raise UsageError(f"{found}; give a teacher that halves its maps as VGG-16 does")
        silent = Conv(np.zeros((1, 1, c, k), "float32"), np.zeros(k, "float32"), Window.of(1))
        nodes.append(Node(f"as {other}", silent, (name,)))
    return net.with_nodes(nodes, classes=data.classes)


def lesson(
    net: Net, bank: Bank, data: DataSet, state: State, *, seconds: float, seed: int
) -> Iterator[dict[str, float]]:
    """Step by step until the time is over; each tells the loss of the classes, and the shares understood."""
    res, preprocess, began, before = net.init_res(), preprocess_of(net), perf_counter(), state.seconds
    while state.seconds < seconds:
        rng = np.random.default_rng([seed, state.batch])
        asked, which = (np.sort(rng.choice(n, HALF)) for n in (len(bank["views"]), len(data)))
        wanted = {name: bank[name][asked].astype(np.float32) for name in PAIRS.values()}
        seen = bank["views"][asked].reshape(HALF, SIDE, 2, SIDE, 2, 3).mean(axis=(2, 4), dtype=np.float32)
        labelled = applied((Flip(), Crop(4)), data.batch(which), rng)
        labels = np.concatenate([np.full(HALF, -1), data.labels[which]])  # those of the bank have none
        x = preprocess.to_net(np.concatenate([seen, labelled.astype(np.float32)]))
        with CREW.alone():
            told = look(net, res, x, labels, wanted)
            rate = RATE * Cosine(warm_up=0.03).factor(state.seconds / seconds, 1)
            descend(net, res, Adam(rate), state)
        state.batch, state.seconds = state.batch + 1, before + perf_counter() - began
        yield told


def look(
    net: Net, res: Res, x: np.ndarray, labels: np.ndarray, wanted: dict[str, np.ndarray]
) -> dict[str, float]:
    """Forward and back. What falls is

    cross entropy of the classes + IMITATION * mean over layers of the mean of (translated - teacher's)²
    """
    translators = {f"as {other}": target for other, target in wanted.items()}
    answers = net.forwardto(res, ["scores", *translators], x, mode="train", keep="needed")
    value, seed = losses.cross_entropy(answers["scores"], labels)
    told = {"class": 2 * value}  # half of the batch has no labels
    seeds: dict[Handle, np.ndarray] = {"scores": 2 * seed}
    for name, target in translators.items():
        miss = answers[name][:HALF] - target
        told[name] = 1 - float((miss * miss).mean())
        seeds[name] = np.zeros_like(answers[name])
        seeds[name][:HALF] = 2 * IMITATION / len(translators) / miss.size * miss
    net.backwardfrom(res, seeds, params=True, to=None)
    return told


def descend(net: Net, res: Res, optimiser: Adam, state: State) -> None:
    """One step downhill; and the batch norms take in what they noticed on the way."""
    grads = net.gradients(res)
    with net.updating() as w:
        for name, grad in grads.items():
            step, state.memory[name] = optimiser.step(grad, state.memory.get(name))
            w[name] += step
        for node in net.nodes:
            for moment in ("mean", "var") if isinstance(node.layer, BatchNorm) else ():
                stored = w[f"{node.name}/{moment}"]
                stored += NORM_SHARE * (getattr(res[node.name].aux, moment) - stored)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="teach the small built-in net to see as a large one sees")
    parser.add_argument("--teacher", required=True, metavar="FILE.h5", help="VGG-16, as minidnn keeps it")
    parser.add_argument(
        "--data", required=True, metavar="PATH", help="pictures of 32x32 with labels: CIFAR-10"
    )
    parser.add_argument("--photos", nargs="*", default=[], metavar="FOLDER", help="other pictures to look at")
    parser.add_argument("-o", "--output", default="student", metavar="FOLDER", help="where to write")
    parser.add_argument("--minutes", type=float, default=15.0, help="of learning, after all is prepared (15)")
    parser.add_argument("--views", type=int, default=8000, help="that the teacher is asked about (8000)")
    parser.add_argument("--dreams", type=int, default=60, help="pictures that the teacher dreams up (60)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    try:
        run(parser.parse_args(argv))
    except MinidnnError as error:
        raise SystemExit(str(error)) from None


def run(args: argparse.Namespace) -> None:
    """Prepare what is not there yet, hold the lesson, and judge by pictures that the student never saw."""
    folder, seconds = Path(args.output), 60 * args.minutes
    saved = folder / "checkpoint.npz"
    if saved.exists() and not args.resume:
        raise UsageError(
            f"{folder}: holds a run already; go on with it by --resume, or give another --output"
        )
    teacher = weights.load(args.teacher)
    data = split(open_data(args.data, size=(SIDE, SIDE)), seed=args.seed, validation=0.0)
    net, state = beginner(teacher, data.train, args.seed), State()
    if args.resume:
        found = checkpoint.load(saved)
        net, state = found.into(net), found.state
    bank, kept, mean = bank_of(teacher, data.train, folder, args), state.seconds, dict[str, float]()
    with tqdm(total=round(seconds), initial=round(state.seconds), bar_format=BAR) as bar:
        for told in lesson(net, bank, data.train, state, seconds=seconds, seed=args.seed):
            mean = {name: 0.98 * mean.get(name, value) + 0.02 * value for name, value in told.items()}
            words = ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
            bar.set_postfix_str(f"batch {state.batch:,}, {words}", refresh=False)
            bar.update(round(min(state.seconds, seconds)) - bar.n)
            if state.seconds >= min(kept + 60, seconds):
                state.history.append({"batch": state.batch, "loss": mean["class"], **mean})
                checkpoint.save(saved, net, state, vars(args))
                kept = state.seconds
    student = zoo.folded(net.with_nodes(node for node in net.nodes if not node.name.startswith("as ")))
    error = evaluate(student, data.test)["top1"]
    provenance = {"taught by": "minidnn's examples/student.py", "asked": vars(args), "test error": error}
    weights.save(folder / "student.h5", student, dtype="float16", provenance=provenance)
    print(f"{1 - error:.2%} of {len(data.test):,} test pictures named rightly; wrote {folder / 'student.h5'}")


if __name__ == "__main__":
    main()
