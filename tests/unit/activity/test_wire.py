"""Bodies from a peer either fit or are refused; numbers that would break JSON or bills do not fit."""

from __future__ import annotations

import math

import msgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.wire.p2p import activity as wire

MODELS: list[type[wire.Message]] = [
    wire.Create,
    wire.ActivityRef,
    wire.Exec,
    wire.Events,
    wire.Ack,
    wire.Report,
    wire.EventBody,
]
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
names = sorted({name for model in MODELS for name in model.model_fields})
bodies = st.dictionaries(
    st.sampled_from(names) | st.text(max_size=4), values | st.lists(values, max_size=3), max_size=8
)


@given(bodies | values, st.sampled_from(MODELS))
def test_any_body_fits_or_is_refused(body: object, model: type[wire.Message]) -> None:
    try:
        model.model_validate(body)
    except pydantic.ValidationError:
        return


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0])
def test_usage_is_finite_and_not_negative(number: float) -> None:
    with pytest.raises(pydantic.ValidationError):
        wire.Report(activity_id="0" * 32, state="Ready", usage=[number])


def test_bodies_survive_messagepack() -> None:
    body = {"seq": 3, "index": 1, "at": 1.5, "kind": "stdout", "data": b"\xff\x00"}
    event = wire.EventBody.model_validate(msgpack.unpackb(msgpack.packb(body))).to_event()
    assert wire.event_body(3, event) == body
