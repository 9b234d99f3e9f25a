"""`minidnn weights`, in the words a user reads; and files from the web, with a server of our own."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from minidnn import weights, zoo
from minidnn.errors import DamagedFileError, OutputError, TooLargeError, UsageError
from minidnn.images import Preprocess
from tests.onnxwriter import model, node
from tests.test_reader_onnx import WEIGHTS, outside
from weights_tools import fetch as fetching
from weights_tools import registry
from weights_tools.cli import main
from weights_tools.fetch import fetch
from weights_tools.registry import FILES, Published


def said(capsys, *argv, code=0):
    assert main([str(word) for word in argv]) == code
    out, err = capsys.readouterr()
    return err if code > 1 else out


@pytest.fixture
def lenet(data):
    folder = data / "models/caffe"
    return [folder / "lenet_mnist_deploy.prototxt", folder / "lenet_mnist.caffemodel"]


@pytest.fixture
def ours(tmp_path):
    path = tmp_path / "lenet.h5"
    weights.save(path, zoo.get("lenet", seed=1))
    return path


# Convert


def test_convert_says_what_it_took_and_what_it_proved(capsys, lenet, tmp_path):
    out = said(capsys, "convert", *lenet, tmp_path / "net.h5")
    assert "net: lenet: 9 layers, 431,080 parameters" in out or "net: lenet: 8 layers" in out
    assert "the Caffe file says so" in out
    assert "self-test: 8 arrays came back from the written file, bit for bit" in out
    assert "net.report.txt" in out and (tmp_path / "net.report.txt").exists()
    assert weights.load(tmp_path / "net.h5").source["path"].endswith("net.h5")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["net.h5", "net.report.txt"]


def test_convert_writes_over_a_file_only_if_told_to(capsys, lenet, tmp_path):
    out, report = tmp_path / "net.h5", tmp_path / "told.txt"
    out.write_text("dear")
    err = said(capsys, "convert", *lenet, out, code=2)
    assert "net.h5: is there already; --force writes over it, in one instant" in err
    assert out.read_text() == "dear"
    said(capsys, "convert", *lenet, out, "--force", "--report", report, "--in-process")
    assert "self-test" in report.read_text(encoding="utf-8")


def test_a_hostile_file_gets_a_sentence_and_leaves_nothing_behind(capsys, tmp_path):
    hostile = tmp_path / "model.pth"
    hostile.write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    found = said(capsys, "convert", hostile, tmp_path / "net.h5", code=4)
    assert found.startswith("minidnn: ") and "Traceback" not in found and "posix" in found
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize(
    "argv, words",
    [
        (["convert", "net.h5"], "name what to convert, and then the file to write: convert IN… OUT.h5"),
        (["convert", "a", "b.h5", "--input-size", "0x3"], "--input-size 0x3: give it as 480x640, or 224"),
        (["export", "net.doc", "a.h5"], r"cannot write '.doc'; end in .mat, .safetensors, .npz"),
        (["fetch", "vgg61"], "no published weights 'vgg61'"),
    ],
)
def test_calls_that_contradict_themselves(capsys, argv, words):
    assert words in said(capsys, *argv, code=2)


def test_debug_shows_where_an_error_came_from():
    with pytest.raises(UsageError, match="name what to convert"):
        main(["--debug", "convert", "net.h5"])


def test_a_folder_of_raw_files_is_converted_by_its_list(capsys, data, tmp_path):
    folder = data / "models/inception_v3"
    out = said(capsys, "convert", folder, tmp_path / "net.h5", "--in-process")
    assert "net: inception-v3-stem: 92 layers, 3,437,856 parameters" in out
    assert "as TensorFlow trained this net; the files do not say it" in out
    wanted = zoo.get("inception-v3-stem", weights=folder)
    assert weights.digest(weights.load(tmp_path / "net.h5")) == weights.digest(wanted)
    (tmp_path / "MANIFEST.csv").write_text("file,bytes,sha256\n../a.dat,4,00\n")
    err = said(capsys, "convert", tmp_path, tmp_path / "net.h5", "--force", code=4)
    assert "line 2 names '../a.dat', not a plain file in its folder" in err


# Export


def test_export_is_done_behind_the_wall_and_says_what_it_changed(capsys, ours, tmp_path, monkeypatch):
    grey = zoo.get("lenet", seed=1)
    said_it = grey.with_nodes(grey.nodes, preprocess=Preprocess("GRAY", scale=1 / 256, size=(28, 28)))
    weights.save(ours, said_it)
    monkeypatch.setattr(weights, "load", None)  # the parent does not open it
    out = said(capsys, "export", tmp_path / "net.mat", ours)
    assert "wrote" in out and "8 layers" in out
    assert "'conv1': its filters were multiplied by 0.00390625 (a power of two, so exactly)" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lenet.h5", "net.mat"]


def test_export_is_for_ours_and_a_hostile_one_gets_a_sentence(capsys, lenet, tmp_path):
    err = said(capsys, "export", tmp_path / "a.npz", lenet[1], code=2)
    assert "Caffe weights; export is for ours, minidnn weights convert makes one" in err
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file.attrs["format"] = np.bytes_("minidnn-weights")
        file["params"] = h5py.ExternalLink("/etc/passwd", "/")
    err = said(capsys, "export", tmp_path / "a.npz", tmp_path / "evil.h5", code=3)
    assert err.startswith("minidnn: ") and "evil.h5" in err
    assert not (tmp_path / "a.npz").exists()


def test_onnx_may_read_the_files_of_its_folder_if_it_is_told_so(capsys, tmp_path):
    net = tmp_path / "model" / "net.onnx"
    net.parent.mkdir()
    net.write_bytes(model([node("Conv", "x w", "y")], [outside("w", location="w.bin")]))
    (net.parent / "w.bin").write_bytes(WEIGHTS["w"].tobytes())
    err = said(capsys, "inspect", net, code=4)
    assert "let it read the files of its own folder: --allow-external" in err
    assert "w 4x2x3x5" in said(capsys, "inspect", net, "--allow-external")
    out = said(capsys, "convert", net, tmp_path / "net.h5", "--allow-external", "--preprocessing", "none")
    assert "1 arrays came back" in out
    assert said(capsys, "compare", net, tmp_path / "net.h5", "--allow-external").endswith("equal\n")
    (net.parent / "w.bin").rename(tmp_path / "real.bin")
    (net.parent / "w.bin").symlink_to(tmp_path / "real.bin")
    assert "cannot be opened as a plain file" in said(capsys, "inspect", net, "--allow-external", code=4)


# Look


def test_inspect_tells_of_a_foreign_file_and_of_ours(capsys, lenet, ours, data):
    out = said(capsys, "inspect", *lenet)
    assert (
        "Caffe net (prototxt) and Caffe weights, 1," in out and "1 conv1" in out and "w 5x5x1x20  b 20" in out
    )
    out = said(capsys, "inspect", ours)
    assert "weights of minidnn (HDF5)" in out and "fc3" in out and "w 4x4x50x500  b 500" in out
    out = said(capsys, "inspect", lenet[0])
    assert "the weights are in another file: name the .caffemodel too" in out
    assert "no such file" in said(capsys, "inspect", "nowhere.h5", code=3)


def test_verify_finds_one_changed_bit(capsys, ours):
    out = said(capsys, "verify", ours)
    assert "lenet.h5: whole and unchanged, 8 arrays of 1,724,320 bytes, digest" in out
    held = bytearray(ours.read_bytes())
    held[weights.Weights.open(ours).offsets["fc3/w"] + 1001] ^= 1
    ours.write_bytes(held)
    assert "'fc3/w' has changed: sha256" in said(capsys, "verify", ours, code=3)


def test_verify_is_for_ours(capsys, lenet):
    assert "lenet_mnist.caffemodel: Caffe weights; verify is for ours" in said(
        capsys, "verify", lenet[1], code=2
    )


def test_compare_goes_by_order_and_ends_with_1_if_not_equal(capsys, ours, lenet, tmp_path):
    assert said(capsys, "compare", ours, ours).endswith("equal\n")
    net = zoo.get("lenet", seed=1)
    moved = net.replacing({"fc4/b": net.params["fc4/b"] + np.float32(0.5)})
    weights.save(tmp_path / "moved.h5", moved)
    out = said(capsys, "compare", ours, tmp_path / "moved.h5", code=1)
    row = next(line for line in out.splitlines() if line.startswith("fc4/b"))
    assert row.split() == ["fc4/b", "0.5", "0.5"] or "0.5" in row
    assert out.endswith("not equal\n")
    weights.save(tmp_path / "other.h5", zoo.get("cifar-quick", seed=1))
    assert "other shapes" in said(capsys, "compare", ours, tmp_path / "other.h5", code=1)


def test_compare_looks_at_shapes_and_not_only_at_how_many_numbers(capsys, tmp_path):
    array = np.arange(12, dtype="f4")
    np.savez(tmp_path / "a.npz", **{"conv/w": array.reshape(1, 2, 2, 3)})
    np.savez(tmp_path / "b.npz", **{"conv/w": array.reshape(2, 1, 2, 3)})
    out = said(capsys, "compare", tmp_path / "a.npz", tmp_path / "b.npz", "--in-process", code=1)
    assert "1x2x2x3 and 2x1x2x3: other shapes" in out


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_what_was_learned_and_what_was_counted_is_compared_together(capsys, tmp_path, ending):
    net, ours, out = zoo.get("resnet20", seed=1), tmp_path / "ours.h5", tmp_path / f"out{ending}"
    weights.save(ours, net)
    said(capsys, "export", out, ours)
    for pair in [(ours, out), (out, ours)]:
        assert said(capsys, "compare", *pair, "--in-process").endswith("\nequal\n")


def test_a_file_compares_equal_to_what_was_made_of_it(capsys, data, tmp_path):
    theirs, ours = data / "models/pytorch/resnet20-12fca82f.th", tmp_path / "ours.h5"
    said(capsys, "convert", theirs, "--preprocessing", "torchvision", ours)
    assert said(capsys, "compare", theirs, ours).endswith("\nequal\n")


def test_compare_says_what_one_file_has_more(capsys, ours, tmp_path):
    net = zoo.get("lenet", seed=1)
    weights.save(tmp_path / "less.h5", net.with_nodes(net.nodes[:3]))
    out = said(capsys, "compare", tmp_path / "less.h5", ours, "--in-process", code=1)
    assert out.endswith("equal in all 4 common arrays; 4 only in B\n")


def test_options_may_stand_between_the_files(capsys, lenet, tmp_path):
    out = tmp_path / "net.h5"
    said(capsys, "convert", lenet[0], "--in-process", lenet[1], "--dtype", "float16", out)
    assert out.exists()
    assert said(capsys, "compare", out, "--in-process", out).endswith("equal\n")
    assert "wrote" in said(capsys, "export", tmp_path / "net.npz", "--force", out)


def test_export_writes_over_a_file_only_if_told_to(capsys, ours, tmp_path):
    out = tmp_path / "net.npz"
    out.write_text("dear")
    assert "net.npz: is there already; --force writes over it" in said(capsys, "export", out, ours, code=2)
    assert out.read_text() == "dear"
    said(capsys, "export", out, ours, "--force")
    assert out.read_bytes()[:2] == b"PK"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a process is ended without a word")
def test_a_conversion_that_is_told_to_end_leaves_nothing_behind(data, tmp_path):
    words = "import sys; from minidnn.cli.main import main; sys.exit(main(sys.argv[1:]))"
    source = data / "models/vgg16/vgg16_conv_imagenet_head_mri.onnx"
    process = subprocess.Popen(
        [sys.executable, "-c", words, "weights", "convert", str(source), str(tmp_path / "net.h5")],
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 30
    while not list(tmp_path.glob(".*.part/job.json")) and time.monotonic() < until:
        time.sleep(0.01)
    process.terminate()
    assert process.communicate(timeout=30)[1] == "minidnn: stopped\n"
    assert (process.returncode, list(tmp_path.iterdir())) == (130, [])


@pytest.mark.parametrize("ending", [".mat", ".safetensors", ".npz"])
def test_what_is_exported_compares_equal(capsys, ours, tmp_path, ending):
    out = tmp_path / f"net{ending}"
    assert f"wrote {out}: 8 layers" in said(capsys, "export", out, ours)
    assert said(capsys, "compare", ours, out).endswith("equal\n")


def test_minidnn_weights_is_the_same_program():
    program = (
        "import sys\nfrom minidnn.cli import main, weights\nmain.COMMANDS['weights'] = weights\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    for argv, code, words in [
        (["weights", "--help"], 0, "usage: minidnn weights"),
        (["weights", "verify", "nowhere.h5"], 3, "nowhere.h5: no such file"),
    ]:
        done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True)
        assert (done.returncode, words in done.stdout + done.stderr) == (code, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_our_words_is_told(tmp_path):
    weights.save(tmp_path / "net.h5", zoo.get("cifar-quick"))
    command = [sys.executable, "-m", "weights_tools", "inspect", str(tmp_path / "net.h5")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (6, "minidnn: cannot write: No space left on device\n")


# Fetch


@pytest.fixture
def content():
    return np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def server(content):
    """Serves the content under any name, and goes on from where it is told; /cut breaks off in the middle."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            asked.append((self.path, start))
            if self.path == "/none":
                self.send_error(404)
                return
            rest = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(2 << 30 if self.path == "/huge" else len(rest)))
            self.end_headers()
            self.wfile.write(rest[: len(rest) // 2] if self.path == "/cut" and not start else rest)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as held:
        held.daemon_threads = True
        thread = threading.Thread(target=held.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{held.server_port}", asked
        held.shutdown()
        thread.join()


@pytest.fixture
def published(monkeypatch, server, content, tmp_path, request):
    """A file of the registry that lies on our server."""
    monkeypatch.setenv("MINIDNN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    if "pooch" not in request.node.name:  # which tests what there is without it
        monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)

    def put(place, *, hash=None, beside=None):
        kind = hash or f"md5:{hashlib.md5(content).hexdigest()}"
        monkeypatch.setitem(FILES, "ours", Published("for a test", f"{server[0]}/{place}", kind, beside))

    return put


def test_fetch_puts_a_file_in_its_place_once(server, published, content, tmp_path):
    published("net.h5", beside=f"{server[0]}/deploy.prototxt")
    seen = []
    paths = fetch("ours", progress=lambda done, total: seen.append((done, total)))
    assert paths == [tmp_path / "home" / "net.h5", tmp_path / "home" / "net.prototxt"]
    assert paths[0].read_bytes() == content and seen[-1][1] == len(content)
    fetch("ours")
    assert len(server[1]) == 2, "what is there is not fetched again"


def test_fetch_goes_on_where_it_broke_off(server, published, content):
    published("cut")
    with pytest.raises(
        OutputError, match=r"150,000 bytes are kept, say it again to go on; or fetch it by other"
    ):
        fetch("ours")
    [path] = fetch("ours")
    assert path.read_bytes() == content
    assert server[1] == [("/cut", 0), ("/cut", 150_000)]


def test_fetch_refuses_what_is_not_what_was_published(server, published):
    published("net.h5", hash="sha256:397923af")
    with pytest.raises(DamagedFileError, match=r"sha256 is [0-9a-f]{64}, published was 397923af; delete it"):
        fetch("ours")
    assert not list(fetching.home().iterdir())


def test_fetch_refuses_files_without_end_and_says_what_is_not_there(server, published):
    published("huge")
    with pytest.raises(TooLargeError, match="2,147,483,648 bytes, the limit is 1,073,741,824"):
        fetch("ours")
    published("none")
    with pytest.raises(OutputError, match=r"Not Found.*; or fetch it by other means and put it to .*none"):
        fetch("ours")


def test_without_a_network_it_says_where_to_put_the_file(capsys, published, monkeypatch, tmp_path):
    monkeypatch.setitem(FILES, "ours", Published("for a test", "http://127.0.0.1:9/net.h5"))
    err = said(capsys, "fetch", "ours", code=6)
    assert f"fetch it by other means and put it to {tmp_path / 'home' / 'net.h5'}" in err


def test_fetch_without_a_name_lists_what_there_is(capsys):
    out = said(capsys, "fetch")
    assert out.startswith(
        f"they go to {fetching.home()}, or where MINIDNN_HOME says; offline, put them there"
    )
    assert "vgg16-torchvision" in out and len(out.splitlines()) == 1 + len(FILES)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_a_full_disk_is_told(capsys, published, tmp_path):
    published("net.h5")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "net.h5.part").symlink_to("/dev/full")
    err = said(capsys, "fetch", "ours", code=6)
    assert "No space left on device; free some space or set MINIDNN_HOME" in err


def test_what_was_fetched_says_what_is_next(capsys, published, content, tmp_path, monkeypatch):
    published("net.h5")
    place = tmp_path / "home" / "net.h5"
    assert f"next: minidnn weights convert {place} ours.h5" in said(capsys, "fetch", "ours")
    monkeypatch.setitem(FILES, "ours", FILES["ours"]._replace(hash=None))
    out = said(capsys, "fetch", "ours")
    assert f"cannot be checked; its sha256 is {hashlib.sha256(content).hexdigest()}" in out
    monkeypatch.setitem(FILES, "ours", FILES["ours"]._replace(is_weights=False))
    assert f"convert, classify or evaluate: --classes {place}" in said(capsys, "fetch", "ours")


def test_pooch_begins_where_it_is_installed_and_we_go_on(server, published, content, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setattr(fetching, "CHUNK", 1 << 12)  # of a piece that breaks off, requests keeps nothing
    published("cut")
    with pytest.raises(OutputError, match="bytes are kept, say it again to go on"):
        fetch("ours")
    [path] = fetch("ours")
    assert path.read_bytes() == content
    assert [place for place, _ in server[1]] == ["/cut", "/cut"] and server[1][1][1] > 0
    published("none")
    with pytest.raises(OutputError, match=r"404.*; or fetch it by other means and put it to .*none"):
        fetch("ours")


def test_what_pooch_brings_has_a_limit_too(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_BYTES", 5)
    seen = []
    with (tmp_path / "part").open("wb") as file:
        counted = fetching.Counted(file, "http://there", lambda done, total: seen.append(done))
        counted.write(b"1234")
        counted.flush()
        with pytest.raises(TooLargeError, match="http://there: more than 5 bytes"):
            counted.write(b"56")
    assert seen == [4] and (tmp_path / "part").read_bytes() == b"1234"


def test_home_is_where_the_user_says_or_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("MINIDNN_HOME", raising=False)
    if os.name == "posix":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert fetching.home() == tmp_path / "minidnn"
    monkeypatch.setenv("MINIDNN_HOME", str(tmp_path / "mine"))
    assert fetching.home() == tmp_path / "mine"


def test_every_hash_is_one_and_every_file_has_a_name():
    for published in registry.FILES.values():
        assert published.file.endswith((".h5", ".pth", ".mat", ".caffemodel", ".json"))
        if published.hash is not None:
            kind, _, digits = published.hash.partition(":")
            assert len(digits) == {"md5": 32, "sha1": 40, "sha256": 8}[kind] and int(digits, 16)
