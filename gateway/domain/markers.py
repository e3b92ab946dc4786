"""Markers: what a submission carries so that its task is known again in the upstream's list.

An upstream has no idempotency key. So where the client leaves something to the upstream, the
attempt says it itself, in a way that nobody else does: the seed that would have been drawn there is
drawn here, the expiry is some minutes before the upstream's own. What is made, and its price, stay
what they were; what the client gave is never changed.

    make_markers -> kept with the attempt -> apply_markers -> the request that is rendered and sent
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.attempts import Markers
from gateway.domain.models import Mode
from gateway.domain.parameters import SAFETY_IDENTIFIER_CHARS_MAX
from gateway.domain.requests import NormalizedRequest
from gateway.ids import Entropy

DEFAULT_EXPIRY_S: Final = 172_800
"""The vendor's expiry of a task that does not set one."""
SEED_MAX: Final = 2**31 - 1

_RANDOM_SEED: Final = -1
_EXPIRY_STEPS: Final = 1024
_MINUTE_S: Final = 60
_BASE32: Final = "234567abcdefghijklmnopqrstuvwxyz"
_SUFFIX_PREFIX: Final = "sgm"
_SUFFIX_DRAWN_CHARS: Final = 13
_SUFFIX: Final = re.compile(rf"\.({_SUFFIX_PREFIX}[a-z2-7]{{{_SUFFIX_DRAWN_CHARS}}})\Z")


@dataclass(frozen=True, slots=True)
class MarkerPolicy:
    """Which markers an upstream's submissions carry."""

    seed: bool = True
    expires_after: bool = False
    """Only for upstreams whose own expiry is `DEFAULT_EXPIRY_S`."""
    safety_identifier: bool = False


def make_markers(
    request: NormalizedRequest, entropy: Entropy, policy: MarkerPolicy | None = None
) -> Markers:
    """Return the markers of one attempt: those that the policy asks for and `request` has room for.

    `safety_identifier` is the suffix alone, so that nothing of the client's is kept with it.
    """
    policy = policy or MarkerPolicy()
    parameters = request.parameters
    seed = expires_after_s = safety_identifier = None
    if policy.seed and parameters.seed in {None, _RANDOM_SEED} and _takes(request, "seed"):
        seed = 1 + int.from_bytes(entropy(8), "big") % SEED_MAX
    if (
        policy.expires_after
        and parameters.execution_expires_after is None
        and _takes(request, "execution_expires_after")
    ):
        expires_after_s = _draw_expiry_s(entropy)
    given = parameters.safety_identifier or ""
    if policy.safety_identifier and _takes(request, "safety_identifier"):
        suffix = _SUFFIX_PREFIX + "".join(
            _BASE32[byte & 31] for byte in entropy(_SUFFIX_DRAWN_CHARS)
        )
        # The client's word is not cut: a long one, such as a SHA-256 in hex, goes out as it is.
        if len(given) + 1 + len(suffix) <= SAFETY_IDENTIFIER_CHARS_MAX:
            safety_identifier = suffix
    return Markers(seed, expires_after_s, safety_identifier)


def apply_markers(request: NormalizedRequest, markers: Markers) -> NormalizedRequest:
    """Return the request as it is sent. What the client gave wins over a marker."""
    parameters = request.parameters
    if markers.seed is not None and parameters.seed in {None, _RANDOM_SEED}:
        parameters = replace(parameters, seed=markers.seed)
    if markers.expires_after_s is not None and parameters.execution_expires_after is None:
        parameters = replace(parameters, execution_expires_after=markers.expires_after_s)
    if markers.safety_identifier is not None:
        given = parameters.safety_identifier or ""
        marked = f"{given}.{markers.safety_identifier}"
        parameters = replace(parameters, safety_identifier=marked)
    return request if parameters is request.parameters else replace(request, parameters=parameters)


def find_safety_marker(identifier: str | None) -> str | None:
    """Return the suffix of ours that an echoed `safety_identifier` ends in."""
    match = _SUFFIX.search(identifier or "")
    return match[1] if match is not None else None


def strip_safety_marker(identifier: str) -> str:
    """Return the client's part of an echoed `safety_identifier`."""
    return _SUFFIX.sub("", identifier)


def is_marked_expiry(value: object) -> bool:
    """Whether an echoed `execution_expires_after` is one of ours.

    Ours are never whole minutes, so that those which clients give are told from them.
    """
    return (
        isinstance(value, int | float)
        and DEFAULT_EXPIRY_S - _EXPIRY_STEPS < value < DEFAULT_EXPIRY_S
        and value % _MINUTE_S != 0
    )


def _draw_expiry_s(entropy: Entropy) -> int:
    early_s = 1 + int.from_bytes(entropy(4), "big") % (_EXPIRY_STEPS - 1)
    return DEFAULT_EXPIRY_S - early_s - (1 if early_s % _MINUTE_S == 0 else 0)


def _takes(request: NormalizedRequest, name: str) -> bool:
    """Whether the model has the parameter for such a request."""
    family, mode = request.family, request.mode
    if mode is Mode.DRAFT:  # what a finished draft has fixed must not be sent again
        return False
    if request.parameters.draft and family.draft is not None and name in family.draft.without:
        return False
    rules = family.modes.get(mode)
    return name in family.parameters and (rules is None or name not in rules.without)
