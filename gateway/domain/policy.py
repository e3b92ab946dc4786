"""What a deployment decides about requests: how strict, and how much."""

from dataclasses import dataclass
from enum import StrEnum


class Validation(StrEnum):
    """What a violated per-model rule does.

    `warn` forwards what the vendor knows though the model's rules don't list it. It still refuses:

    - a value of another shape than its field's, which for `service_tier`, `framespersecond` and
      `tools` is the vendor's own words;
    - what contradicts itself: a command and a field, content that can't go together, the case of
      a known name;
    - what leaves the price unknown: see `find_price_violation` in `gateway/domain/rules.py`.
    """

    ENFORCE = "enforce"
    WARN = "warn"


class UnknownFields(StrEnum):
    FORWARD = "forward"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class NormalizePolicy:
    """The bounds of one request. The vendor advises 1,000 words at most, and takes more."""

    validation: Validation = Validation.ENFORCE
    unknown_fields: UnknownFields = UnknownFields.FORWARD
    unknown_fields_count_max: int = 32
    unknown_fields_bytes_max: int = 16_384
    """As JSON, all of them together."""
    content_items_max: int = 64
    text_chars_max: int = 20_000
    """All texts together."""
    url_chars_max: int = 8_192
    image_bytes_max: int = 30 * 1024 * 1024
    """Of one image given as a data URI, decoded."""
    audio_bytes_max: int = 15 * 1024 * 1024
