"""Whatever a client sends: one form or one refusal, and nothing hides in a prompt."""

from dataclasses import replace
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.commands import lift_commands
from gateway.domain.content import ItemType
from gateway.domain.parameters import PARAMETER_NAMES
from gateway.domain.policy import Validation
from gateway.domain.requests import NormalizedRequest, normalize
from gateway.domain.stored import fingerprint
from gateway.errors import ClientFault
from tests.support.requests import (
    DEFAULT_POLICY,
    LITE_I2V,
    PRO,
    V15,
    V20,
    V25,
    a_text,
    an_image,
    shipped_catalog,
)

_scalars: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, False, 0, 5, -1, 24, 57, 5.0, 5.5, "5", "true", "480p", "9:21", "keep_ratio",
     "adaptive", "flex", "", "x" * 100, "\x00", [], {}, [{"type": "web_search"}]]
)  # fmt: skip
HONEST: Final = [
    "a fox", "雨", "--", "— ", "--rs 480p", "--dur 5", "-- cf true", "--rt 9:21", "--frames 57",
    "—dur 5", "--seed -1", "\n", "rs 480p", "--wm=false",
]  # fmt: skip
OTHER_NAMES: Final = ["callback_url", "spare", "Spare", "Draft", "DURATION", "re\u017folution"]
_honest_texts = st.lists(st.sampled_from(HONEST), max_size=6)
_texts = st.lists(
    st.sampled_from([*HONEST, "--duration", "--dur", "--dur 6", "-", "duration", "4k."]), max_size=6
)
_items = st.one_of(
    _texts.map(lambda words: a_text(" ".join(words))),
    _texts.map(lambda words: a_text("".join(words))),
    st.sampled_from([None, "first_frame", "last_frame", "reference_image"]).map(an_image),
    st.just({"type": "draft_task", "draft_task": {"id": "cgt-1"}}),
    st.fixed_dictionaries({"type": _scalars, "text": _scalars}),
    _scalars,
)
_bodies = st.fixed_dictionaries(
    {
        "model": st.sampled_from([PRO, LITE_I2V, V15, V20, V25, "house-1", "ep-20261122-abcde"]),
        "content": st.lists(_items, min_size=1, max_size=3),
    },
    optional=dict.fromkeys((*PARAMETER_NAMES, *OTHER_NAMES), _scalars),
)
_honest_bodies = st.fixed_dictionaries(
    {
        "model": st.sampled_from([PRO, "ep-20261122-abcde"]),
        "content": st.lists(
            _honest_texts.map(lambda words: a_text("fox " + " ".join(words))), min_size=1
        ),
    },
    optional={
        "duration": st.sampled_from([5, "5", 5.0]),
        "resolution": st.sampled_from(["480p", "480P"]),
        "seed": st.sampled_from([-1, "-1"]),
        "watermark": st.sampled_from([False, "false"]),
        "spare": st.sampled_from([None, 1, "--rs 480p"]),
    },
)


def sent_body(request: NormalizedRequest) -> dict[str, object]:
    """Return the request as it is sent: fields, and what no field takes at the end of the text."""
    items = [item.as_json() for item in request.content]
    commands = [a_text(f"{command.spelled} {command.value}") for command in request.text_commands]
    return {
        "model": request.model,
        "content": [*items, *commands],
        **request.body_parameters(),
        **request.extra,
    }


@given(_bodies, st.sampled_from(Validation))
def test_a_body_is_normalized_or_refused_and_nothing_else(
    body: dict[str, Any], validation: Validation
) -> None:
    policy = replace(DEFAULT_POLICY, validation=validation)

    try:
        request = normalize(body, shipped_catalog(), policy)
    except ClientFault as refused:
        error = refused
    else:
        check_nothing_hides(request, policy.validation)
        return
    assert error.param
    assert error.public_status in {400, 404}
    assert error.message.isprintable()
    assert len(error.message) < 700


def check_nothing_hides(request: NormalizedRequest, validation: Validation) -> None:
    for item in request.content:
        if item.type is ItemType.TEXT:
            assert lift_commands(item.value).commands == ()
            assert item.value.strip()
    assert not {name.casefold() for name in request.extra} & {"model", *PARAMETER_NAMES}
    prompts = [item.value for item in request.content if item.type is ItemType.TEXT]
    for separator in ("", " ", "\n"):
        assert lift_commands(separator.join(prompts)).commands == ()
    policy = replace(DEFAULT_POLICY, validation=validation)
    again = normalize(sent_body(request), shipped_catalog(), policy)
    # Of a duration that frames have replaced, only the warning is left.
    assert set(again.warnings) <= set(request.warnings)
    assert replace(again, warnings=()) == replace(request, callback_url=None, warnings=())


@given(_honest_bodies)
def test_what_is_sent_equals_what_was_normalized(body: dict[str, Any]) -> None:
    request = normalize(body, shipped_catalog(), DEFAULT_POLICY)

    check_nothing_hides(request, Validation.ENFORCE)


@given(_bodies, st.randoms(use_true_random=False))
def test_the_order_of_fields_makes_no_difference(body: dict[str, Any], random: Any) -> None:
    names = list(body)
    random.shuffle(names)
    shuffled = {name: body[name] for name in names}

    assert outcome_of(body) == outcome_of(shuffled)


@given(_bodies, st.sets(st.sampled_from([*PARAMETER_NAMES, "spare", "callback_url"])))
def test_a_null_field_makes_no_difference(body: dict[str, Any], names: set[str]) -> None:
    assert outcome_of(body) == outcome_of({**dict.fromkeys(names), **body})


def outcome_of(body: dict[str, Any]) -> tuple[str, str]:
    try:
        request = normalize(body, shipped_catalog(), DEFAULT_POLICY)
    except ClientFault as error:
        return error.param, error.message
    return "", fingerprint(request)
