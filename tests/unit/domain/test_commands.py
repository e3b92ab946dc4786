import re
import time
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.commands import Command, lift_commands
from gateway.errors import InvalidRequest

# Written down apart from the parser, from the vendor's page.
NAMES: Final = {
    "resolution": ["resolution", "rs"],
    "ratio": ["ratio", "rt"],
    "duration": ["duration", "dur"],
    "frames": ["frames"],
    "framespersecond": ["framespersecond", "framepersecond", "fps"],
    "seed": ["seed"],
    "camera_fixed": ["camerafixed", "cf"],
    "watermark": ["watermark", "wm"],
}
VALUES: Final = {
    "resolution": ["480p", "1080p", "4K"],
    "ratio": ["16:9", "9:21", "keep_ratio", "Adaptive"],
    "duration": ["5", "-1", "12"],
    "frames": ["121"],
    "framespersecond": ["24"],
    "seed": ["-1", "4294967295"],
    "camera_fixed": ["true", "False"],
    "watermark": ["TRUE", "false"],
}
DASHES: Final = ["--", "-- ", "---", "––", "−−", "‐‑", "－－", "﹣－", "——", "--\t", "—", "— ", "⸺"]
PLAIN_COMMAND: Final = re.compile(
    rf"[-–—]{{2}}\s*({'|'.join(name for names in NAMES.values() for name in names)})(\s|=|\Z)"
)
HOSTILE_CHARS: Final = 200_000

_words = st.sampled_from(
    ["a fox", "雨が降る", "--", "—", "-", "\n", "rs", "480p", "4k.", "seed", "5", "--noaudio"]
)


def spelled(text: str) -> list[tuple[str, str]]:
    return [(command.parameter, command.value) for command in lift_commands(text).commands]


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, str, str]:
    """Return parameter and value, and one of the ways to write them."""
    parameter = draw(st.sampled_from(sorted(NAMES)))
    value = draw(st.sampled_from(VALUES[parameter]))
    name = draw(st.sampled_from(NAMES[parameter]))
    name = draw(st.sampled_from([name, name.upper(), name.title()]))
    dashes = draw(st.sampled_from(DASHES))
    separator = draw(st.sampled_from([" ", "\t", "\n", "  ", "\r\n", "\u3000", "=", " = "]))
    return parameter, value, f"{dashes}{name}{separator}{value}"


@given(st.lists(commands(), max_size=6))
def test_lifts_every_command_however_it_is_spelled(written: list[tuple[str, str, str]]) -> None:
    text = "A fox in the rain, " + " runs ".join(text for _, _, text in written)

    lifted = lift_commands(text)

    assert [(c.parameter, c.value) for c in lifted.commands] == [w[:2] for w in written]
    assert lifted.prompt.split() == (
        ["A", "fox", "in", "the", "rain,"] + ["runs"] * max(len(written) - 1, 0)
    )


@given(
    st.lists(_words | commands().map(lambda written: written[2]), max_size=12).map(" ".join)
    | st.lists(_words | commands().map(lambda written: written[2]), max_size=12).map("".join)
    | st.text("-–— \nrsdu=5p", max_size=40)
)
def test_leaves_no_command_in_a_prompt(text: str) -> None:
    try:
        lifted = lift_commands(text)
    except InvalidRequest as error:
        assert "nested" in error.message  # noqa: PT017  # the other outcome is no error
        return

    again = lift_commands(lifted.prompt)
    assert again.commands == ()
    assert again.prompt == lifted.prompt
    assert not PLAIN_COMMAND.search(lifted.prompt)


@given(st.text())
def test_a_text_without_commands_is_left_as_it_is(text: str) -> None:
    lifted = lift_commands(text)

    if not lifted.commands:
        assert lifted.prompt == text


def test_lifts_the_published_example() -> None:
    lifted = lift_commands(
        "A girl holds a fox.  --resolution 480p --duration 5 -- camerafixed true"
    )

    assert lifted.prompt == "A girl holds a fox."
    assert lifted.commands == (
        Command("resolution", "480p", "--resolution"),
        Command("duration", "5", "--duration"),
        Command("camera_fixed", "true", "--camerafixed"),
    )


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("A fox --rs 480p runs", "A fox runs"),
        ("--rs 480p A fox", "A fox"),
        ("A fox\n--rs 480p\nruns", "A fox\nruns"),
        ("A fox --rs 480p\nruns", "A fox\nruns"),
        ("A fox --rs 480p --dur 5\n\nruns", "A fox\nruns"),
        ("A fox\n--rs 480p\n--dur 5 runs", "A fox\nruns"),
        ("狐--rs 480p--dur 5 走る", "狐 走る"),
        ("fox--rs 480p", "fox"),
        ("--rs 480p", ""),
    ],
)
def test_what_stood_around_a_command_is_joined(text: str, prompt: str) -> None:
    assert lift_commands(text).prompt == prompt


@pytest.mark.parametrize(
    "text",
    [
        "--dur5",
        "--durations 5",
        "--rs480p",
        "-rs 480p",
        "- -rs 480p",
        "–-",
        "--ratio, 16:9",
        "--ratio: 16:9",
        "--duration-5",
        '--"duration" 5',
        "--camera_fixed true",
        "--noaudio",
        "--reſolution 480p",
        "rs 480p",
        "---\nDuration: 5 seconds",
        "--\nA fox",
        "a hero — seed of doubt",
        "a hero —ratio of light",
        "a hero—seed 5",
        "a hero — duration",
        "—",
        "",
    ],
)
def test_prose_and_unknown_names_stay_in_the_prompt(text: str) -> None:
    lifted = lift_commands(text)

    assert lifted.prompt == text
    assert lifted.commands == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("--duration", [("duration", "")]),
        ("--duration ", [("duration", "")]),
        ("--duration=", [("duration", "")]),
        ("--duration --rs 480p", [("duration", ""), ("resolution", "480p")]),
        ("--dur--rs 480p", [("duration", ""), ("resolution", "480p")]),
        ("--dur --5", [("duration", "")]),
        ('--ratio "16:9"', [("ratio", '"16:9"')]),
        ("--rs 480p, then", [("resolution", "480p,")]),
        ("--dur == 5", [("duration", "=")]),
        ("-- seed of doubt", [("seed", "of")]),
        ("--\nduration 5", [("duration", "5")]),
        ("--\nframes of gold", [("frames", "of")]),
        ("fox --\nresolution 4k.", [("resolution", "4k.")]),
        ("--\r\n\u2028 dur 15s", [("duration", "15s")]),
        ("––\nduration", [("duration", "")]),
        ("--\n\nDuration\n\n", [("duration", "")]),
        ("— resolution 4k.", [("resolution", "4k.")]),
        ("—\ndur 15s", [("duration", "15s")]),
        ("— wm false, then", [("watermark", "false,")]),
        ("--rt 16:9—a dark sky", [("ratio", "16:9")]),
        ("--seed −1", [("seed", "-1")]),
        ("--seed –1", [("seed", "-1")]),
        ("--\u200brs\u200b480p", [("resolution", "480p")]),
        ("--rs 480p --rs 720p", [("resolution", "480p"), ("resolution", "720p")]),
    ],
)
def test_a_value_goes_from_white_space_to_white_space(
    text: str, found: list[tuple[str, str]]
) -> None:
    assert spelled(text) == found


def test_lifts_commands_that_lifting_has_joined() -> None:
    assert lift_commands("-- --rs 480p duration 5").prompt == ""
    assert spelled("-- --rs 480p duration 5") == [("resolution", "480p"), ("duration", "5")]


def test_refuses_commands_nested_deeper_than_any_honest_text() -> None:
    text = "--rs 480p"
    for _ in range(20):
        text = f"-- {text} rs 480p"

    with pytest.raises(InvalidRequest, match="nested in each other"):
        lift_commands(text)


@pytest.mark.parametrize(
    "unit",
    [
        "-",
        "- ",
        "-- ",
        "— ",
        "--\n",
        "--dur 5 ",
        "--dur",
        "--dur -",
        "--durx",
        "—dur of ",
        "x-",
        " ",
    ],
)
@pytest.mark.parametrize("head", ["", "--", "--dur", "--dur ", "—dur"])
def test_hostile_texts_take_time_in_proportion_to_their_size(head: str, unit: str) -> None:
    text = head + unit * (HOSTILE_CHARS // len(unit))
    started_s = time.process_time()

    lift_commands(text)

    # These take minutes where the work grows with the square of the size.
    assert time.process_time() - started_s < 5


def test_neither_prompt_nor_value_is_shown_in_a_repr() -> None:
    assert "fox" not in repr(lift_commands("a fox --rs fox"))
