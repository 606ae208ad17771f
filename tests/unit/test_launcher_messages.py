# SPDX-License-Identifier: Apache-2.0
"""Messages come back as they were, and whatever else comes is refused by name alone."""

import dataclasses
import json
import random
import sys
import time
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.launcher import messages
from rdmatrain.launcher.messages import (
    MAX_BYTES,
    Beat,
    EndRound,
    Fault,
    Finish,
    Join,
    Message,
    Node,
    RankState,
    Refuse,
    Report,
    Round,
    StopAsked,
    Stopped,
    StopWorkers,
    decode,
    encode,
)

SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(1 << 63) + 1, (1 << 63) - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: st.text(),
    Mapping[str, str]: st.dictionaries(st.text(), st.text(), max_size=4),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return all values that a field of this type may have."""
    if kind in SCALARS:
        return SCALARS[kind]
    if dataclasses.is_dataclass(kind):
        types = get_type_hints(kind)
        return st.builds(kind, **{name: values(types[name]) for name in types})
    first, _ = get_args(kind)
    if get_origin(kind) is tuple:
        return st.lists(values(first), max_size=3).map(tuple)
    return st.none() | values(first)


def with_a_seat(message: Message) -> Message:
    if not isinstance(message, Round):
        return message
    nodes = message.nodes or (NODE,)
    return dataclasses.replace(message, nodes=nodes, mine=message.mine % len(nodes))


MESSAGES = st.one_of([values(kind) for kind in messages._TYPES.values()]).map(with_a_seat)

FAULT = Fault(kind="signal", host="pod-3", rank=5, pid=77, detail="SIGSEGV")
NODE = Node(node_rank=0, host="pod-0", address="10.0.0.1", nproc=2, first_rank=0)
SAMPLES: list[Message] = [
    Join(host="pod-3", agree={"torch": "2.13.0"}),
    Report(round=3, fault=FAULT, states=(RankState(rank=1, beat_s=0.5, waits_for=(2, 3)),)),
    Stopped(round=3),
    StopAsked(signal="SIGTERM", host="pod-1"),
    Beat(),
    Refuse(reason="torch differs", exit_code=78),
    Round(number=1, restart=0, nodes=(NODE,), mine=0),
    EndRound(number=1, fault=FAULT, again=True),
    StopWorkers(signal="SIGTERM"),
    Finish(exit_code=1, fault=FAULT),
]


def changed(message: Message, **fields: object) -> bytes:
    """Return what ``encode`` would write, with other fields."""
    return json.dumps(json.loads(encode(message)) | fields).encode()


def test_the_samples_are_all_messages() -> None:
    assert {type(sample).__name__ for sample in SAMPLES} == set(messages._TYPES)


@given(message=MESSAGES)
@settings(deadline=None, max_examples=200)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message)) == message


def test_what_comes_back_is_frozen_and_hashable_where_it_was() -> None:
    report = decode(encode(SAMPLES[1]))
    assert isinstance(report, Report)
    assert isinstance(report.states, tuple)
    assert isinstance(report.states[0], RankState)
    assert isinstance(report.fault, Fault)
    hash(report)


def test_a_whole_number_is_a_float_where_one_is_meant() -> None:
    state = json.loads(encode(Report(round=1, states=(RankState(rank=0),))))["states"][0]
    message = decode(changed(Report(round=1), states=[state | {"idle_s": 3}]))
    assert isinstance(message, Report)
    assert type(message.states[0].idle_s) is float


def test_bytes_of_a_name_that_were_no_text_become_question_marks() -> None:
    message = decode(encode(Refuse(reason="no file a\udcffb", exit_code=1)))
    assert message == Refuse(reason="no file a?b", exit_code=1)


STATE = dataclasses.asdict(RankState(rank=0))
BAD_FAULT = dataclasses.asdict(FAULT) | {"pid": "Zsecret"}
REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not JSON"),
    "no UTF-8": (b'{"": "Beat\xff"}', "not JSON"),
    "UTF-16": ('{"": "Beat"}'.encode("utf-16"), "not JSON"),
    "no object": (b"[1, 2]", "no known type"),
    "null": (b"null", "no known type"),
    "no type": (b"{}", "no known type"),
    "unknown type": (b'{"": "Zsecret"}', "no known type"),
    "the type is a list": (b'{"": ["Beat"]}', "no known type"),
    "a type of a field": (changed(Beat(), **{"": "Fault"}), "no known type"),
    "two messages": (encode(Beat()) * 2, "not JSON"),
    "missing": (b'{"": "Stopped"}', "Stopped has other fields"),
    "extra": (changed(Beat(), Zsecret=1), "Beat has other fields"),
    "twice": (b'{"": "Stopped", "round": 1, "round": 2}', "not JSON"),
    "text for a number": (changed(Stopped(round=1), round="Zsecret"), "Stopped.round"),
    "a float for a whole number": (changed(Stopped(round=1), round=1.0), "Stopped.round"),
    "true for a number": (changed(Stopped(round=1), round=True), "Stopped.round"),
    "1 for true": (changed(Report(round=1), done=1), "Report.done"),
    "null for a number": (changed(Stopped(round=1), round=None), "Stopped.round"),
    "65 bits": (changed(Stopped(round=1), round=1 << 64), "Stopped.round"),
    "a million digits": (b'{"": "Stopped", "round": ' + b"9" * (MAX_BYTES - 99) + b"}", "not JSON"),
    "NaN": (b'{"": "Stopped", "round": NaN}', "not JSON"),
    "infinity": (changed(Report(round=1), states=[STATE | {"idle_s": float("inf")}]), "not JSON"),
    "1e999": (
        changed(Report(round=1), states=[STATE]).replace(b'"idle_s": 0.0', b'"idle_s": 1e999'),
        "Report.states.idle_s",
    ),
    "deep": (b"[" * (MAX_BYTES - 1), "not JSON"),
    "deep objects": (b'{"a":' * 100_000, "not JSON"),
    "deep in a field": (changed(Beat(), x=json.loads("[" * 400 + "]" * 400)), "Beat has other"),
    "half a pair": (changed(StopWorkers(signal="x"), signal="\ud800"), "StopWorkers.signal"),
    "half a pair as a key": (changed(Join(host="a"), agree={"\udfff": "x"}), "Join.agree"),
    "a mapping for a list": (changed(Report(round=1), states={}), "Report.states"),
    "a list for a mapping": (changed(Join(host="a"), agree=[]), "Join.agree"),
    "a number in a mapping": (changed(Join(host="a"), agree={"a": 1}), "Join.agree"),
    "a text for a fault": (changed(Finish(exit_code=1), fault="Zsecret"), "Finish.fault"),
    "a list for a fault": (changed(Finish(exit_code=1), fault=[]), "Finish.fault"),
    "half a fault": (changed(Finish(exit_code=1), fault={"kind": "exit"}), "Finish.fault"),
    "a bad fault": (changed(Finish(exit_code=1), fault=BAD_FAULT), "Finish.fault.pid"),
    "a bad state": (
        changed(Report(round=1), states=[STATE | {"waits_for": [1, None]}]),
        "Report.states.waits_for",
    ),
    "null in a list": (changed(Report(round=1), states=[None]), "Report.states"),
    "a seat that is none": (changed(SAMPLES[6], mine=1), "Round.mine"),
    "a seat from the end": (changed(SAMPLES[6], mine=-1), "Round.mine"),
    "too long": (changed(Refuse(reason="x", exit_code=1), reason="Z" * MAX_BYTES), "10486.. bytes"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_message_is_refused_without_what_it_holds(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        decode(data)
    assert type(caught.value) is ValueError
    assert "Z" not in str(caught.value)
    assert len(str(caught.value)) < 100


@pytest.mark.skipif(
    not hasattr(sys, "set_int_max_str_digits"), reason="this Python has no limit to take away"
)
def test_many_digits_take_no_time_where_python_has_no_limit() -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        begin = time.process_time()
        with pytest.raises(ValueError, match="not JSON"):
            decode(b'{"": "Stopped", "round": ' + b"9" * (MAX_BYTES - 99) + b"}")
        assert time.process_time() - begin < 1
    finally:
        sys.set_int_max_str_digits(limit)


def test_too_long_or_not_finite_is_not_said() -> None:
    with pytest.raises(ValueError, match="Refuse has 1048"):
        encode(Refuse(reason="x" * MAX_BYTES, exit_code=1))
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(Report(round=1, states=(RankState(rank=0, idle_s=float("nan")),)))


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Change a message at a few places: bytes, pieces of others, or its JSON."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(200))
    text = bytearray(data)
    pieces = [b"[", b"{", b"null", b"1e400", b"-1", b'""', b"NaN", b"\\ud800", b"true", b","]
    for _ in range(chance.randrange(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 1, 2, 9)))
        other = encode(chance.choice(SAMPLES))
        cut = chance.randrange(len(other))
        text[start:end] = chance.choice(
            (chance.randbytes(1), chance.choice(pieces), other[cut : cut + 12], b"")
        )
    return bytes(text)


def test_random_and_changed_bytes_are_refused_or_are_a_message() -> None:
    chance = random.Random(8)
    encoded = [encode(sample) for sample in SAMPLES]
    read = 0
    for _ in range(20_000):
        data = mutated(chance, chance.choice(encoded))
        try:
            message = decode(data)
        except ValueError as error:
            assert type(error) is ValueError
        else:
            read += 1
            assert decode(encode(message)) == message
    assert 0 < read < 10_000, "the changes must be such that both happen"
