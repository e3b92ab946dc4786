"""What may be used is at most what is held: against published samples and a second formula."""

from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.billing import Quote, UnitPrices, Usage, settle
from gateway.domain.content import ItemType
from gateway.domain.models import Catalog
from gateway.domain.policy import Validation
from gateway.domain.prices import PriceList
from gateway.domain.quotes import (
    TOKENS_MAX,
    UNKNOWN_DRAFT,
    DraftFacts,
    OpenEnded,
    quote_as_json,
    quote_request,
    read_draft_facts,
    settled_usage,
)
from gateway.domain.requests import NormalizedRequest, normalize
from gateway.domain.stored import hash_texts, stored_form
from gateway.errors import ClientFault, PriceNotFound
from gateway.sandbox.draws import Draws
from gateway.sandbox.errors import VendorError
from gateway.sandbox.magic import Magic
from gateway.sandbox.requests import read_order
from gateway.sandbox.tasks import Spec, make_spec
from gateway.sandbox.views import _measures
from gateway.upstreams.ark import render_submission
from tests.support.pricing import (
    ENDED,
    NOW_MS,
    USD,
    a_case,
    a_document,
    a_row,
    books_of,
    list_prices,
    shipped_prices,
)
from tests.support.requests import (
    DEFAULT_POLICY,
    LITE_I2V,
    PRO,
    V15,
    V20,
    V25,
    a_body,
    a_text,
    a_video,
    an_image,
    normalized,
    shipped_catalog,
)

FAST: Final = "doubao-seedance-2-0-fast-260128"
MINI: Final = "doubao-seedance-2-0-mini-260615"
LITE_T2V: Final = "doubao-seedance-1-0-lite-t2v-250428"
PRO_FAST: Final = "doubao-seedance-1-0-pro-fast-251015"
TALL: Final = {"ratio": "16:9"}
WARN: Final = replace(DEFAULT_POLICY, validation=Validation.WARN)
REFERENCE: Final = (a_text(), an_image("reference_image"))
DRAFT_TASK: Final = {"type": "draft_task", "draft_task": {"id": "cgt-1"}}


def quoted(
    *content: object,
    model: str = PRO,
    prices: PriceList | None = None,
    catalog: Catalog | None = None,
    open_ended: OpenEnded = OpenEnded.CEILING,
    draft: DraftFacts = UNKNOWN_DRAFT,
    **fields: object,
) -> Quote:
    policy = fields.pop("policy", DEFAULT_POLICY)
    request = normalized(*content, model=model, policy=policy, **fields)  # type: ignore[arg-type]
    return quote_request(
        request,
        "ark",
        NOW_MS,
        prices=prices or shipped_prices(),
        catalog=catalog or shipped_catalog(),
        open_ended=open_ended,
        draft=draft,
    )


def quoted_request(request: NormalizedRequest, draft: DraftFacts = UNKNOWN_DRAFT) -> Quote:
    return quote_request(
        request,
        "ark",
        NOW_MS,
        prices=shipped_prices(),
        catalog=shipped_catalog(),
        draft=draft,
    )


def bounds(quote: Quote) -> tuple[int, int]:
    return quote.low.tokens, quote.high.tokens


@pytest.mark.parametrize(
    ("model", "content", "fields", "tokens"),
    [
        (V20, (a_text(),), {"resolution": "720p", "duration": 5, **TALL}, 108_900),
        (FAST, (a_text(),), {"resolution": "720p", "duration": 4, **TALL}, 87_300),
        (V20, (a_text(),), {"resolution": "480p", "duration": 5, **TALL}, 50_638),
        (PRO, (a_text(),), {"resolution": "1080p", "duration": 5, **TALL}, 246_840),
        (PRO, (a_text(),), {"resolution": "480p", "duration": 5, **TALL}, 49_005),
        (PRO, (a_text("a fox --rs 480p --dur 5 --rt 16:9"),), {}, 49_005),
    ],
)
def test_a_fixed_request_is_quoted_at_what_the_vendor_reports(
    model: str, content: tuple[object, ...], fields: dict[str, Any], tokens: int
) -> None:
    quote = quoted(*content, model=model, **fields)

    assert bounds(quote) == (tokens, tokens)
    assert quote.held == quote.high == Usage(tokens, fields.get("duration", 5))


def test_a_published_sample_with_reference_video_is_within_its_bounds() -> None:
    """Half a minute out of half a minute of reference: 1,296,900 tokens were reported."""
    quote = quoted(a_text(), a_video(), model=V25, resolution="720p", duration=30, ratio="16:9")

    assert quote.low.tokens < 1_296_900 <= quote.high.tokens
    # What the model takes of a reference, and no more, lies between the two.
    assert quote.high.tokens == 1280 * 720 * (24 * (30 + 31) + 1) // 1024


def test_what_is_left_open_counts_at_its_most() -> None:
    quote = quoted(model=V20)

    assert bounds(quote) == (
        1280 * 720 * 121 // 1024,  # as small as 1:1
        1112 * 834 * 121 // 1024,
    )
    assert (quote.low.seconds, quote.high.seconds) == (5, 5)


@pytest.mark.parametrize(
    ("model", "least_s", "typical_s", "most_s"), [(V15, 4, 5, 12), (V20, 4, 5, 15), (V25, 4, 5, 30)]
)
def test_a_length_that_the_model_chooses_is_held_at_its_longest_or_as_configured(
    model: str, least_s: int, typical_s: int, most_s: int
) -> None:
    fields: dict[str, Any] = {"resolution": "720p", "ratio": "16:9", "duration": -1}
    tokens = {s: 1280 * 720 * (24 * s + 1) // 1024 for s in (least_s, typical_s, most_s)}

    full = quoted(model=model, **fields)
    typical = quoted(model=model, open_ended=OpenEnded.TYPICAL, **fields)

    assert full.held == full.high == Usage(tokens[most_s], most_s)
    assert full.low == Usage(tokens[least_s], least_s)
    assert typical.held == Usage(tokens[typical_s], typical_s)
    assert (typical.high, typical.low, typical.price) == (full.high, full.low, full.price)


def test_a_fixed_length_is_held_the_same_either_way() -> None:
    for model in (PRO, V20):
        fixed = quoted(model=model, duration=6)
        assert quoted(model=model, duration=6, open_ended=OpenEnded.TYPICAL) == fixed


def test_a_default_that_is_open_is_open() -> None:
    assert quoted(model=V25).high.seconds == 30
    assert quoted(model=V25, open_ended=OpenEnded.TYPICAL).held.seconds == 5


@pytest.mark.parametrize(("count", "low_s"), [(1, 2), (3, 6)])
def test_reference_video_is_held_at_all_that_the_model_takes(count: int, low_s: int) -> None:
    fields: dict[str, Any] = {"resolution": "480p", "ratio": "1:1", "duration": 4}

    quote = quoted(a_text(), *[a_video()] * count, model=V20, **fields)

    assert bounds(quote) == (
        640 * 640 * (97 + 24 * low_s) // 1024,
        640 * 640 * (97 + 24 * 16) // 1024,
    )
    assert quote.price.charge.million_tokens_micros == 28_000_000


def test_images_are_no_input_video() -> None:
    quote = quoted(*REFERENCE, model=V20, resolution="480p", ratio="1:1", duration=4)

    assert bounds(quote) == (640 * 640 * 97 // 1024,) * 2
    assert quote.price.charge.million_tokens_micros == 46_000_000


@pytest.mark.parametrize(("frames", "tokens", "seconds"), [(29, 11_745, 2), (121, 49_005, 6)])
def test_frames_count_as_they_are_and_in_whole_seconds_up(
    frames: int, tokens: int, seconds: int
) -> None:
    quote = quoted(resolution="480p", ratio="16:9", frames=frames)

    assert quote.low == quote.high == Usage(tokens, seconds)
    assert settled_usage({"usage": {"total_tokens": tokens}, "frames": frames}, HELD) == quote.held


def test_an_old_ratio_is_priced_as_what_it_is_and_may_be_passed_over() -> None:
    quote = quoted(a_text("a fox --rt 9:21"), resolution="480p", duration=5)

    assert quote.high.tokens == 960 * 416 * 121 // 1024
    assert quote.low.tokens == min(w * h for w, h in [(960, 416), (736, 544)]) * 121 // 1024


@pytest.mark.parametrize(
    ("model", "fields", "micros"),
    [
        (V15, {}, 16_000_000),
        (V15, {"generate_audio": True}, 16_000_000),
        (V15, {"generate_audio": False}, 8_000_000),
        (V15, {"generate_audio": False, "service_tier": "flex"}, 4_000_000),
        (PRO, {"service_tier": "flex"}, 7_500_000),
        (PRO, {"service_tier": "default"}, 15_000_000),
        (V20, {"resolution": "4k"}, 26_000_000),
        (V20, {"resolution": "1080p"}, 51_000_000),
        (MINI, {}, 23_000_000),
    ],
)
def test_a_request_is_priced_by_what_it_asks_for(
    model: str, fields: dict[str, Any], micros: int
) -> None:
    assert quoted(model=model, **fields).price.charge.million_tokens_micros == micros


def test_a_draft_is_held_in_full_and_may_cost_six_tenths() -> None:
    quote = quoted_request(normalized(model=V15, draft=True, ratio="16:9", duration=5))

    whole = 864 * 496 * 121 // 1024
    assert bounds(quote) == (whole * 6 // 10, whole)


def test_a_tool_may_be_called_once_and_is_held_for() -> None:
    books = books_of(a_document(a_row(per_tool_call="0.05")))
    prices = list_prices(books)
    fields: dict[str, Any] = {"resolution": "480p", "ratio": "1:1", "duration": 4}

    without = quoted(model=V20, prices=prices, **fields)
    with_tool = quoted(model=V20, prices=prices, tools=[{"type": "web_search"}], **fields)

    assert (without.high.tool_calls, with_tool.high.tool_calls) == (0, 1)
    assert with_tool.hold_micros - without.hold_micros == 50_000
    assert with_tool.low.tool_calls == 0


def test_a_model_without_a_price_is_refused_before_anything_is_held() -> None:
    with pytest.raises(PriceNotFound, match="seedance-2-5-260628 at 1080p without input video"):
        quoted(model=V25, resolution="1080p", prices=shipped_prices(USD))
    with pytest.raises(PriceNotFound, match="The model house-1 without input video in the tier"):
        quoted(model="house-1")


def test_a_price_holds_at_the_moment_of_the_quote() -> None:
    books = books_of(
        a_document(
            a_row(per_million_tokens=46),
            a_row(per_million_tokens=40, effective_from="2026-11-22"),
        )
    )
    request, prices = normalized(model=V20), list_prices(books)
    midnight_ms = 1_795_305_600_000

    found = [
        quote_request(request, "ark", at_ms, prices=prices, catalog=shipped_catalog()).price
        for at_ms in (midnight_ms - 1, midnight_ms)
    ]

    assert [price.charge.million_tokens_micros for price in found] == [46_000_000, 40_000_000]
    assert [price.version.split("/")[1] for price in found] == ["2026-01-28", "2026-11-22"]


class TestWhatTheUpstreamMayNotHeed:
    """With rules that only warn, every reading that the upstream may have is within bounds."""

    def test_a_resolution_that_the_model_lacks(self) -> None:
        fields: dict[str, Any] = {"resolution": "4k", "ratio": "1:1", "duration": 4, "policy": WARN}

        quote = quoted(model=MINI, **fields)

        assert bounds(quote) == (960 * 960 * 97 // 1024, 2880 * 2880 * 97 // 1024)

    def test_a_ratio_that_the_mode_lacks(self) -> None:
        quote = quoted(a_text(), an_image(), model=V25, ratio="21:9", duration=4, policy=WARN)

        assert bounds(quote) == (960 * 960 * 97 // 1024, 1112 * 834 * 97 // 1024)

    def test_a_ratio_that_no_table_has(self) -> None:
        quote = quoted(model=V20, ratio="5:4", duration=4, policy=WARN)

        assert bounds(quote) == (960 * 960 * 97 // 1024, 1112 * 834 * 97 // 1024)

    def test_a_length_beyond_the_models(self) -> None:
        quote = quoted(model=V20, duration=60, resolution="480p", ratio="1:1", policy=WARN)

        assert (quote.low.seconds, quote.high.seconds) == (5, 60)
        assert quote.high.tokens == 640 * 640 * (24 * 60 + 1) // 1024

    def test_frames_between_the_steps(self) -> None:
        quote = quoted(frames=30, resolution="480p", ratio="1:1", policy=WARN)

        assert bounds(quote) == (640 * 640 * 30 // 1024, 640 * 640 * 121 // 1024)

    def test_frames_and_a_duration_on_a_model_without_frames_are_refused(self) -> None:
        with pytest.raises(ClientFault):
            quoted(model=V20, frames=29, duration=5, policy=WARN)

    def test_a_tier_that_the_model_lacks_is_priced_at_the_dearest(self) -> None:
        prices = list_prices(
            books_of(
                a_document(
                    a_row(tier="default", per_million_tokens=3),
                    a_row(tier="flex", per_million_tokens=5),
                )
            )
        )

        quote = quoted(model=V20, service_tier="flex", prices=prices, policy=WARN)

        assert quote.price.charge.million_tokens_micros == 5_000_000

    def test_a_mode_that_the_model_lacks(self) -> None:
        quote = quoted(*REFERENCE, model=PRO, ratio="1:1", duration=4, policy=WARN)

        # Without rules of a mode, those of the family hold.
        assert bounds(quote) == (1440 * 1440 * 97 // 1024,) * 2


class TestAFamilyWithoutRules:
    """It says neither frames nor lengths: everything counts as the dearest that is known."""

    @pytest.fixture
    def prices(self) -> PriceList:
        return list_prices(books_of(a_document(a_row(family="house-model"))))

    def test_of_a_known_resolution_the_largest_frame_of_all_models_counts(
        self, prices: PriceList
    ) -> None:
        quote = quoted(model="house-1", resolution="480p", duration=5, prices=prices)

        assert bounds(quote) == (960 * 416 * 121 // 1024, 992 * 432 * 121 // 1024)

    @pytest.mark.parametrize("resolution", [None, "8k"])
    def test_of_no_or_an_unknown_resolution_the_largest_of_all(
        self, prices: PriceList, resolution: str | None
    ) -> None:
        quote = quoted(model="house-1", resolution=resolution, duration=5, prices=prices)

        assert quote.high.tokens == 3326 * 2494 * 121 // 1024

    def test_an_open_length_is_an_hour(self, prices: PriceList) -> None:
        quote = quoted(model="house-1", resolution="480p", prices=prices)

        assert (quote.low.seconds, quote.high.seconds) == (1, 3600)
        assert quote.high.tokens <= TOKENS_MAX

    def test_both_readings_of_frames_and_a_duration_count(self, prices: PriceList) -> None:
        quote = quoted(model="house-1", resolution="480p", frames=29, duration=10, prices=prices)

        assert (quote.low.seconds, quote.high.seconds) == (2, 10)

    def test_a_finished_draft_may_have_had_reference_video(self, prices: PriceList) -> None:
        draft = DraftFacts(duration_s=5)

        quote = quoted(DRAFT_TASK, model="house-1", resolution="480p", prices=prices, draft=draft)

        assert quote.high.tokens == 992 * 432 * (121 + 24 * 31) // 1024

    def test_without_any_table_the_largest_published_frame_counts(self, prices: PriceList) -> None:
        family = shipped_catalog().families["house-model"]
        catalog = Catalog({"house-model": family}, {"house-1": family})

        quote = quoted(model="house-1", duration=1, prices=prices, catalog=catalog)

        assert bounds(quote) == (25 // 1024, 3326 * 2494 * 25 // 1024)


class TestTheSecondStepOfADraft:
    def test_without_a_word_of_the_draft_the_dearest_counts(self) -> None:
        quote = quoted(DRAFT_TASK, model=V25)

        assert quote.high == Usage(2206 * 946 * (24 * (30 + 31) + 1) // 1024, 30)
        assert quote.price.charge.million_tokens_micros == 77_000_000

    def test_what_is_known_of_the_draft_counts(self) -> None:
        facts = DraftFacts(has_input_video=False, has_audio=False, duration_s=6)

        quote = quoted(DRAFT_TASK, model=V25, draft=facts)
        silent = quoted(DRAFT_TASK, model=V15, draft=facts)

        assert quote.high == Usage(2206 * 946 * 145 // 1024, 6)
        assert silent.price.charge.million_tokens_micros == 8_000_000

    def test_with_reference_video_it_is_cheaper_and_longer(self) -> None:
        facts = DraftFacts(has_input_video=True, has_audio=True, duration_s=6)

        quote = quoted(DRAFT_TASK, model=V25, draft=facts)

        assert quote.high.tokens == 2206 * 946 * (145 + 24 * 31) // 1024
        assert quote.price.charge.million_tokens_micros == 46_000_000

    def test_a_model_that_takes_no_video_had_none(self) -> None:
        quote = quoted(DRAFT_TASK, model=V15, draft=DraftFacts(duration_s=5))

        assert quote.high.tokens == 1112 * 834 * 121 // 1024
        assert quote.price.charge.million_tokens_micros == 16_000_000

    def test_frames_of_the_draft_are_those_of_the_film(self) -> None:
        quote = quoted(DRAFT_TASK, model=V25, draft=DraftFacts(has_input_video=False, frames=100))

        assert quote.high == Usage(2206 * 946 * 721 // 1024, 30)  # 100 is no number of frames
        assert quote.low.seconds == 4

    @pytest.mark.parametrize("concealed", [False, True])
    def test_the_facts_are_read_from_what_is_stored_and_reported(
        self,
        concealed: bool,  # noqa: FBT001 - both ways
    ) -> None:
        request = normalized(a_text(), a_video(), model=V25, draft=True, generate_audio=False)
        stored = stored_form(request)
        stored = hash_texts(stored) if concealed else stored

        facts = read_draft_facts(stored, {"duration": 7})

        assert facts == DraftFacts(has_input_video=True, has_audio=False, duration_s=7)

    @pytest.mark.parametrize(
        ("stored", "fields", "facts"),
        [
            ({}, {}, UNKNOWN_DRAFT),
            ({"content": []}, {}, UNKNOWN_DRAFT),
            ({"content": "x", "duration": "5"}, {"frames": None}, UNKNOWN_DRAFT),
            ({"content": [a_text()]}, {}, DraftFacts(has_input_video=False)),
            (
                {"duration": 5, "generate_audio": True},
                {"duration": 6, "generate_audio": False},
                DraftFacts(has_audio=False, duration_s=6),
            ),
            ({"duration": -1}, {"frames": 29}, DraftFacts(frames=29)),
            ({"duration": True, "frames": 0}, {}, UNKNOWN_DRAFT),
            ({"duration": 3601, "frames": 86_401}, {}, UNKNOWN_DRAFT),
        ],
    )
    def test_what_neither_says_is_not_known(
        self, stored: dict[str, object], fields: dict[str, object], facts: DraftFacts
    ) -> None:
        assert read_draft_facts(stored, fields) == facts


HELD: Final = Usage(tokens=108_900, seconds=5, tool_calls=1)


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        (
            {"usage": {"completion_tokens": 49_005, "total_tokens": 49_005}, "duration": 6},
            Usage(49_005, 6),
        ),
        ({"usage": {"completion_tokens": 7}}, Usage(7, 5)),
        ({"usage": {"completion_tokens": 0, "total_tokens": 9}}, Usage(9, 5)),
        ({"usage": {"total_tokens": 9}, "frames": 29}, Usage(9, 2)),
        ({"usage": {"total_tokens": 9}, "frames": 48, "duration": 3}, Usage(9, 3)),
        ({"usage": {"total_tokens": 9}, "frames": "48", "duration": 0}, Usage(9, 5)),
        (
            {"usage": {"total_tokens": 9, "tool_usage": {"web_search": 2, "other": 1}}},
            Usage(9, 5, tool_calls=3),
        ),
        (
            {"usage": {"total_tokens": 9, "tool_usage": {"web_search": -2, "b": True, "c": "3"}}},
            Usage(9, 5),
        ),
        (
            {"usage": {"total_tokens": 9, "tool_usage": {"a": 1000, "b": 1000, "c": 1001}}},
            Usage(9, 5, tool_calls=1000),
        ),
        ({"usage": {"total_tokens": 9, "tool_usage": [1]}}, Usage(9, 5)),
        ({"usage": {"total_tokens": TOKENS_MAX}}, Usage(TOKENS_MAX, 5)),
    ],
)
def test_a_report_is_read_as_what_was_used(fields: dict[str, object], usage: Usage) -> None:
    assert settled_usage(fields, HELD) == usage


@pytest.mark.parametrize(
    "usage",
    [None, [], "49005", {}, {"completion_tokens": 0}, {"completion_tokens": -5},
     {"completion_tokens": None}, {"completion_tokens": "49005"}, {"completion_tokens": 49_005.0},
     {"completion_tokens": True}, {"completion_tokens": TOKENS_MAX + 1}, {"total_tokens": [1]}],
)  # fmt: skip
def test_a_report_without_tokens_says_nothing(usage: object) -> None:
    assert settled_usage({"usage": usage, "duration": 5}, HELD) is None
    assert settled_usage({}, HELD) is None


def test_a_quote_is_told_in_bounds() -> None:
    fields: dict[str, Any] = {"resolution": "720p", "ratio": "16:9", "duration": -1}

    told = quote_as_json(quoted(model=V20, open_ended=OpenEnded.TYPICAL, **fields))

    version = told.pop("price_version")
    assert told == {
        "tokens": {"low": 87_300, "high": 324_900, "held": 108_900},
        "seconds": {"low": 4, "high": 15, "held": 5},
        "charge_micros": {"low": 4_015_800, "high": 14_945_400, "held": 5_009_400},
        "currency": "CNY",
    }
    assert isinstance(version, str)
    assert version.startswith("volcengine-cny/2026-01-28/")


# Random bodies, and what the simulated upstream bills for them by a formula of its own.

MODELS: Final = (LITE_T2V, LITE_I2V, PRO, PRO_FAST, V15, V20, FAST, MINI, V25)
_videos = st.integers(2, 15).map(
    lambda s: {
        "type": "video_url",
        "video_url": {"url": f"https://img.example/boat.mp4?seconds={s}"},
        "role": "reference_video",
    }
)
_pictures = st.integers(0, 9).map(lambda n: f"https://img.example/{n}.png")
_contents: st.SearchStrategy[list[object]] = st.one_of(
    st.just([]),
    _pictures.map(lambda url: [an_image("first_frame", url)]),
    st.tuples(_pictures, _pictures).map(
        lambda urls: [an_image("first_frame", urls[0]), an_image("last_frame", urls[1])]
    ),
    st.lists(
        st.one_of(_videos, _pictures.map(lambda url: an_image("reference_image", url))),
        min_size=1,
        max_size=3,
    ),
)
_fields = st.fixed_dictionaries(
    {},
    optional={
        "resolution": st.sampled_from(["480p", "720p", "1080p", "4k"]),
        "ratio": st.sampled_from(["16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "adaptive"]),
        "duration": st.one_of(st.just(-1), st.integers(2, 30)),
        "frames": st.integers(1, 66).map(lambda n: 25 + 4 * n),
        "service_tier": st.sampled_from(["default", "flex"]),
        "generate_audio": st.booleans(),
        "draft": st.booleans(),
        "tools": st.sampled_from([[], [{"type": "web_search"}]]),
        "omni_reference_task_type": st.sampled_from(["auto", "reference", "edit", "extend"]),
    },
)
_commands = st.sampled_from(["", " --rs 480p", " --dur 5", " --rt 16:9", " --rt 9:21", " --fps 24"])


@dataclass(frozen=True)
class Made:
    """What the simulated upstream makes of a body, and reports of it."""

    spec: Spec
    has_input_video: bool
    tier: str

    @property
    def report(self) -> dict[str, object]:
        tokens = self.spec.tokens
        usage = {"completion_tokens": tokens, "total_tokens": tokens}
        return {**_measures(self.spec), "usage": usage}


def make(request: NormalizedRequest, ordinal: int, draft: Spec | None = None) -> Made | None:
    """Send the request; None if the simulated upstream does not take it."""
    body = render_submission(request, request.model, "cgt-draft")
    try:
        order = read_order(body, endpoints={}, weak_commands="error")
    except VendorError:
        return None
    spec = make_spec(order, Magic(), Draws(1, ordinal), draft, request_id="", raw_hash="")
    return Made(spec, order.content.count("video") > 0, order.service_tier)


def check_within(quote: Quote, made: Made, request: NormalizedRequest) -> None:
    """Fail unless what is reported and billed is within the quote."""
    used = settled_usage(made.report, quote.held)
    assert used is not None
    assert quote.low.tokens <= used.tokens == made.spec.tokens <= quote.high.tokens
    assert quote.low.seconds <= used.seconds <= quote.high.seconds
    resolution = settle(quote.price, quote.held, used, ENDED)
    assert resolution.charge_micros <= quote.hold_micros
    # Nor would the vendor's own price for what was made, which it knows better, be more.
    case = a_case(
        family=request.family.name,
        resolution=made.spec.resolution,
        has_input_video=made.has_input_video,
        has_audio=bool(made.spec.generate_audio),
        is_draft=made.spec.draft,
        tier=made.tier,
    )
    billed = shipped_prices().find(case, "ark", NOW_MS, used)
    assert billed.cost.amount(used) <= quote.hold_micros


@settings(max_examples=300)
@given(st.sampled_from(MODELS), _contents, _commands, _fields, st.integers(0, 10**6))
def test_no_body_costs_more_than_is_held_for_it(
    model: str, content: list[object], command: str, fields: dict[str, Any], ordinal: int
) -> None:
    for policy in (DEFAULT_POLICY, WARN):
        body = a_body(a_text(f"a fox{command}"), *content, model=model, **fields)
        try:
            request = normalize(body, shipped_catalog(), policy)
            quote = quoted_request(request)
        except ClientFault:
            continue
        made = make(request, ordinal)
        if made is not None:
            check_within(quote, made, request)


def test_the_bodies_that_are_drawn_are_mostly_taken_by_both() -> None:
    """Else the test above would say nothing."""
    bodies = [
        a_body(a_text("a fox"), *content, model=model, **fields)
        for model in MODELS
        for content in ([], [an_image("first_frame")], [a_video()])
        for fields in ({}, {"duration": 5}, {"resolution": "480p"}, {"duration": -1})
    ]
    taken = 0
    for body in bodies:
        try:
            request = normalize(body, shipped_catalog(), DEFAULT_POLICY)
        except ClientFault:
            continue
        taken += make(request, 1) is not None

    assert taken > len(bodies) // 2


@given(
    st.sampled_from([V15, V25]),
    st.sampled_from([(), (a_video(),), (an_image("first_frame"),)]),
    st.sampled_from([{}, {"duration": 7}, {"duration": -1}, {"ratio": "9:16"}]),
    st.booleans(),
    st.integers(0, 10**6),
    st.sampled_from(["both", "stored", "reported", "none"]),
)
def test_no_second_step_of_a_draft_costs_more_than_is_held_for_it(
    model: str,
    content: tuple[object, ...],
    fields: dict[str, Any],
    has_audio: bool,  # noqa: FBT001 - drawn
    ordinal: int,
    known: str,
) -> None:
    body = a_body(a_text(), *content, model=model, draft=True, generate_audio=has_audio, **fields)
    try:
        first = normalize(body, shipped_catalog(), DEFAULT_POLICY)
    except ClientFault:
        return
    draft = make(first, ordinal)
    assert draft is not None
    check_within(quoted_request(first), draft, first)
    second = normalized(DRAFT_TASK, model=model)
    facts = read_draft_facts(
        stored_form(first) if known in {"both", "stored"} else {},
        draft.report if known in {"both", "reported"} else {},
    )
    made = make(second, ordinal + 1, draft.spec)
    assert made is not None
    has_video = any(item.type is ItemType.VIDEO for item in first.content)
    made = replace(made, has_input_video=has_video)

    check_within(quoted_request(second, facts), made, second)


def test_the_dearest_of_all_requests_fits_into_a_column() -> None:
    dearest = UnitPrices(10**13, 10**13, 10**13, 10**13)
    longest = quoted(a_text(), a_video(), model=V25, duration=30, resolution="1080p")

    assert dearest.amount(longest.high) < 2**62
