"""Protobuf's wire format: what is written comes back, and damage is told off before it costs anything."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from minidnn.errors import DamagedFileError, TooLargeError
from tests import caffewriter as caffe
from tests.caffewriter import field, varint
from weights_tools import wire
from weights_tools.wire import Message


def test_numbers_come_back_signed_packed_or_one_by_one():
    numbers = [0, 1, 127, 128, 300, (1 << 63) - 1, -1, -(1 << 63)]
    one_by_one = b"".join(field(4, number) for number in numbers)
    packed = field(4, b"".join(map(varint, numbers)))
    assert Message(one_by_one).numbers(4) == Message(packed).numbers(4) == numbers
    assert Message(one_by_one + packed).numbers(4) == numbers * 2
    assert Message(one_by_one).number(4) == -(1 << 63)
    assert (Message(b"").number(4, 17), Message(b"").numbers(4)) == (17, [])


def test_texts_and_messages_come_back():
    inner = field(1, "conv1") + field(1, "größer") + field(2, 5)
    message = Message(field(3, inner) + field(3, b"") + field(7, 1.5), "net")
    first, second = message.messages(3, "layer")
    assert (first.texts(1), first.text(1), first.number(2), second.text(1, "none")) == (
        ["conv1", "größer"],
        "größer",
        5,
        "none",
    )
    assert (message.real(7), message.real(8, 2.5), first.what) == (1.5, 2.5, "net > layer")
    assert 3 in message and 4 not in message


def test_a_message_in_two_pieces_is_one():
    whole = Message(field(3, field(1, "a") + field(2, 5)) + field(3, field(1, "b"))).message(3, "layer")
    assert (whole.texts(1), whole.number(2)) == (["a", "b"], 5)
    assert Message(b"").message(3, "layer").fields == {}


@pytest.mark.parametrize("number", [5, 500])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 1000, 70_001])
def test_floats_come_back_packed_or_one_by_one(number, count):
    floats = np.random.default_rng(0).standard_normal(count).astype("<f4")
    one_by_one = b"".join(field(number, float(value)) for value in floats)
    around = field(1, "name") + one_by_one + field(2, 7)
    np.testing.assert_array_equal(Message(around).reals(number), floats)
    np.testing.assert_array_equal(Message(field(number, floats.tobytes())).reals(number), floats)
    assert (Message(around).text(1), Message(around).number(2)) == ("name", 7)


def test_floats_of_two_fields_in_turn_are_kept_apart():
    mixed = b"".join(field(5 + i % 2, float(i)) + field(5, float(-i)) for i in range(101))
    message = Message(mixed)
    assert message.reals(5).tolist() == [
        v for i in range(101) for v in ([float(i), -float(i)] if i % 2 == 0 else [-float(i)])
    ]
    assert message.reals(6).tolist() == [float(i) for i in range(1, 101, 2)]


def test_a_packed_array_is_a_view_into_the_file():
    data = memoryview(field(1, "x") + field(5, np.arange(6, dtype="<f4").tobytes()))
    assert np.shares_memory(Message(data).reals(5), np.frombuffer(data, np.uint8))


def test_unpacked_floats_take_little_more_room_than_packed_ones():
    data = b"".join([b"\x2d" + struct.pack("<f", i) for i in range(300_000)])
    tracemalloc.start()
    assert Message(data).reals(5)[-1] == 299_999
    assert tracemalloc.get_traced_memory()[1] < 3 * len(data)
    tracemalloc.stop()


BROKEN = {
    "a number of more than ten bytes": b"\x08" + b"\xff" * 11,
    "ends within a number": b"\x08\xff",
    "field 1 claims 5 bytes, 2 are left; cut short": b"\x0a\x05ab",
    "field 1 claims 9,223,372,036,854,775,807 bytes": b"\x0a" + varint((1 << 63) - 1),
    "field 1 claims 4 bytes, 3 are left": b"\x0dabc",
    "field 1 claims 8 bytes, 3 are left": b"\x09abc",
    "wire type 3 at byte 2; there are 0, 1, 2 and 5": field(1, 5) + b"\x0b",
    "wire type 4 at byte 0": b"\x0c",
    "wire type 6 at byte 0": b"\x0e",
    "wire type 7 at byte 0": b"\x0f",
    "no field has number 0": b"\x00\x00",
    "no field has number 536870912": varint((1 << 29) << 3) + b"\x00",
}


@pytest.mark.parametrize("words", BROKEN)
def test_what_is_broken_says_where(words):
    with pytest.raises(DamagedFileError, match=f"file: {words}"):
        Message(BROKEN[words], "file")


def test_a_field_of_another_kind_is_told_off():
    message = Message(field(1, 5) + field(2, b"abc") + field(3, b"\xff\xfe") + field(4, b"\xff"), "file")
    with pytest.raises(DamagedFileError, match="field 1 has wire type 0, not 2"):
        message.bytes(1)
    with pytest.raises(DamagedFileError, match="field 2 holds no whole floats"):
        message.reals(2)
    with pytest.raises(DamagedFileError, match="field 1 holds no whole floats"):
        message.reals(1)
    with pytest.raises(DamagedFileError, match="field 3 is not text"):
        message.texts(3)
    with pytest.raises(DamagedFileError, match="ends within a number"):
        message.numbers(4)
    with pytest.raises(DamagedFileError, match="wire type 5, not 2"):
        Message(field(1, 1.0)).numbers(1)


def test_too_many_fields_or_numbers_are_refused_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(wire, "MAX_FIELDS", 100)
    with pytest.raises(TooLargeError, match="more than 100 fields"):
        Message(field(2, b"") * 101)
    monkeypatch.setattr(wire, "MAX_NUMBERS", 50)
    with pytest.raises(TooLargeError, match="field 2 holds more than 50 numbers"):
        Message(field(2, b"\x01" * 51)).numbers(2)


def test_messages_within_messages_cost_nothing_until_they_are_asked_for():
    data = b""
    for _ in range(10_000):
        data = field(100, data)
    assert len(Message(data).bytes(100)) == 1


@pytest.mark.oracle
@pytest.mark.parametrize("old", [False, True])
def test_protobuf_reads_the_nets_that_our_tests_write(old):
    """The writer is the measure of the reader, so it is measured itself."""
    pytest.importorskip("google.protobuf")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 3, 2, 5)), rng.standard_normal(4)]
    filters = {"pad": [1, 2], "num_output": 4}
    rule = [{"phase": "TEST", "stage": ["x"]}]
    about = {"pool": "AVE", "kernel_h": 3, "kernel_w": 2, "global_pooling": True}
    net = caffe.net(
        caffe.layer("conv", "Convolution", "data", blobs=arrays, convolution_param=filters),
        caffe.layer("pool", "Pooling", "conv", pooling_param=about, include=rule),
        caffe.layer("d", "Dropout", "pool", "pool", dropout_param={"dropout_ratio": 0.25}),
        input=["data"],
        input_shape=[{"dim": [1, 3, 9, 7]}],
    )  # fmt: skip
    read = _protobuf_net()
    read.ParseFromString(caffe.binary(net, old=old))
    conv, pool, drop = read.layers if old else read.layer
    assert (read.name, read.input, list(read.input_shape[0].dim)) == ("testnet", ["data"], [1, 3, 9, 7])
    assert (conv.name, list(conv.bottom), list(conv.top)) == ("conv", ["data"], ["conv"])
    assert (conv.type, pool.type) == ((4, 17) if old else ("Convolution", "Pooling"))
    assert (list(conv.convolution_param.pad), conv.convolution_param.num_output) == ([1, 2], 4)
    assert list(conv.blobs[0].shape.dim) == [4, 3, 2, 5]
    np.testing.assert_array_equal(np.array(conv.blobs[0].data, "f4"), arrays[0].astype("f4").ravel())
    p = pool.pooling_param
    assert (p.pool, p.kernel_h, p.kernel_w, p.global_pooling) == (1, 3, 2, True)
    assert (pool.include[0].phase, pool.include[0].stage, drop.dropout_param.dropout_ratio) == (
        1,
        ["x"],
        0.25,
    )
    for style, name in [("legacy", "data"), ("unpacked", "data"), ("double", "double_data")]:
        read.ParseFromString(caffe.binary(net, old=old, style=style))
        first = (read.layers if old else read.layer)[0].blobs[0]
        np.testing.assert_allclose(getattr(first, name), arrays[0].ravel(), rtol=1e-6)
        if style == "legacy":
            assert (first.num, first.channels, first.height, first.width) == (4, 3, 2, 5)


def _protobuf_net():
    """An empty net of Caffe's, as far as this test writes one; written down as caffe.proto has it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    messages = """
    BlobShape: dim=1 int64* packed
    BlobProto: num=1 int64, channels=2 int64, height=3 int64, width=4 int64, data=5 float* packed, shape=7 BlobShape, double_data=8 double* packed
    NetStateRule: phase=1 int32, stage=4 string*
    ConvolutionParameter: num_output=1 uint32, pad=3 uint32*
    PoolingParameter: pool=1 int32, kernel_h=5 uint32, kernel_w=6 uint32, global_pooling=12 bool
    DropoutParameter: dropout_ratio=1 float
    LayerParameter: name=1 string, type=2 string, bottom=3 string*, top=4 string*, blobs=7 BlobProto*, include=8 NetStateRule*, convolution_param=106 ConvolutionParameter, dropout_param=108 DropoutParameter, pooling_param=121 PoolingParameter
    V1LayerParameter: bottom=2 string*, top=3 string*, name=4 string, type=5 int32, blobs=6 BlobProto*, include=32 NetStateRule*, convolution_param=10 ConvolutionParameter, dropout_param=12 DropoutParameter, pooling_param=19 PoolingParameter
    NetParameter: name=1 string, layers=2 V1LayerParameter*, input=3 string*, input_dim=4 int32*, input_shape=8 BlobShape*, layer=100 LayerParameter*
    """  # noqa: E501
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe_test.proto", package="caffe_test", syntax="proto2")
    for line in messages.strip().splitlines():
        name, about = line.strip().split(": ")
        described = file.message_type.add(name=name)
        for one in about.split(", "):
            (what, number), kind = one.split()[0].split("="), one.split()[1]
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            added = described.field.add(name=what, number=int(number), label=label)
            kind = kind.rstrip("*")
            if kind[0].isupper():
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".caffe_test.{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
            if "packed" in one:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe_test.NetParameter"))()
