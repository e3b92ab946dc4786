"""The wire formats as pydantic models: what /openapi.json says of bodies. Nothing is parsed here.

Requests are read by `gateway/domain/requests.py`, which takes what a schema can't say: numbers and
booleans as strings, text commands inside a prompt, rules by model.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

Flag = Annotated[
    bool | str | None,
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["true", "false"]}, {"type": "null"}]}),
]
"""A boolean, also as a string; null means absent."""


def _number(least: int, most: int) -> WithJsonSchema:
    """A whole number, also as a string; null means absent."""
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": most},
                {"type": "string", "pattern": r"^-?[0-9]{1,10}$"},
                {"type": "null"},
            ]
        }
    )


def _choice(*words: str) -> WithJsonSchema:
    return WithJsonSchema({"enum": [*words, None]})


class Wire(BaseModel):
    """A body whose other fields, known to the upstream alone, are forwarded or shown unchanged."""

    model_config = ConfigDict(extra="allow")


class Url(Wire):
    url: Annotated[str, Field(min_length=1)]


class DraftTask(Wire):
    id: Annotated[str, Field(min_length=1, description="A draft task of the same project.")]


class TextItem(Wire):
    type: Literal["text"]
    text: str = Field(
        description="The prompt. Known commands such as `--resolution 480p --duration 5` are read "
        "as the fields of the same names and leave the prompt."
    )


class ImageItem(Wire):
    type: Literal["image_url"]
    image_url: Url = Field(
        description="`http`, `https`, `data:image/<format>;base64,...` or `asset://<id>`."
    )
    role: Literal["first_frame", "last_frame", "reference_image"] | None = Field(
        default=None, description="May be absent for a single image, which is the first frame."
    )


class VideoItem(Wire):
    type: Literal["video_url"]
    video_url: Url = Field(description="`http`, `https` or `asset://<id>`.")
    role: Literal["reference_video"] | None = None


class AudioItem(Wire):
    type: Literal["audio_url"]
    audio_url: Url = Field(
        description="`http`, `https`, `data:audio/<format>;base64,...` or `asset://<id>`."
    )
    role: Literal["reference_audio"] | None = None


class DraftTaskItem(Wire):
    type: Literal["draft_task"]
    draft_task: DraftTask


ContentItem = Annotated[
    TextItem | ImageItem | VideoItem | AudioItem | DraftTaskItem, Field(discriminator="type")
]


class Tool(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["web_search"]


class SubmitRequest(Wire):
    """What to generate. `null` means absent in every field; unknown fields are forwarded."""

    model: Annotated[
        str,
        Field(
            min_length=1,
            description="A model id or endpoint id that is configured in this gateway.",
        ),
    ]
    content: Annotated[list[ContentItem], Field(min_length=1)]
    resolution: Annotated[str | None, Field(description="`480p`, `720p`, `1080p`, `4k`.")] = None
    ratio: Annotated[
        str | None,
        Field(description="`16:9`, `4:3`, `1:1`, `3:4`, `9:16`, `21:9`, `adaptive` and others."),
    ] = None
    duration: Annotated[
        int | str | None,
        _number(-1, 2**31 - 1),
        Field(description="Seconds; -1 lets the model decide, where it can."),
    ] = None
    frames: Annotated[
        int | str | None,
        _number(1, 2**31 - 1),
        Field(description="29 to 289, as 25 + 4n; wins over `duration`."),
    ] = None
    framespersecond: Annotated[int | str | None, _number(24, 24)] = None
    seed: Annotated[int | str | None, _number(-1, 2**32 - 1)] = None
    camera_fixed: Flag = None
    watermark: Flag = None
    generate_audio: Flag = None
    draft: Flag = None
    return_last_frame: Flag = None
    service_tier: Annotated[str | None, _choice("default", "flex")] = None
    execution_expires_after: Annotated[
        int | str | None,
        _number(3600, 259_200),
        Field(description="Seconds after its creation when the task expires."),
    ] = None
    priority: Annotated[int | str | None, _number(0, 9)] = None
    tools: list[Tool] | None = None
    safety_identifier: Annotated[str | None, Field(max_length=64)] = None
    output_format: Annotated[str | None, Field(description="`mp4`, `mov`.")] = None
    omni_reference_task_type: Annotated[
        str | None, Field(description="`auto`, `reference`, `edit`, `extend`.")
    ] = None
    callback_url: Annotated[
        str | None,
        Field(
            description="Called by the gateway with the task at each change of its status, signed; "
            "never given to the upstream. A URL that can never be called is refused: a port above "
            "65535, an address that is not public or is written as one number."
        ),
    ] = None


class Submitted(BaseModel):
    """The task's id: ark surface."""

    id: str


class SubmittedWithMessage(Submitted):
    """The task's id and a fixed message: seedance surface."""

    message: str


class TaskErrorBody(BaseModel):
    code: str
    message: str


class TaskContent(Wire):
    video_url: Annotated[
        str | None, Field(description="Signed by the upstream; valid for a day.")
    ] = None
    last_frame_url: str | None = None


class Usage(Wire):
    completion_tokens: int | None = None
    total_tokens: int | None = None


class Bill(BaseModel):
    """What a settled task cost, in millionths of the currency's unit."""

    cost_micros: int
    currency: str
    price_version: str


class Task(Wire):
    """A task. Fields that the upstream reported beside these are shown as they came."""

    id: str
    model: Annotated[str, Field(description="The model as it was asked for.")]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
    error: Annotated[TaskErrorBody | None, Field(description="Why the task failed.")] = None
    content: Annotated[TaskContent | None, Field(description="Once it succeeded.")] = None
    usage: Annotated[Usage | None, Field(description="Once it ended.")] = None
    gateway: Annotated[Bill | None, Field(description="Once it is settled.")] = None
    created_at: Annotated[int, Field(description="Unix time in seconds.")]
    updated_at: Annotated[int, Field(description="Unix time in seconds.")]


class RequestEcho(BaseModel):
    """The request as it was understood: commands lifted, media given as data by their hash."""

    model: str
    content: list[dict[str, object]]


class TaskWithRequest(Task):
    """A task with a fixed message and the request: seedance surface."""

    message: str
    request: RequestEcho


class Bounds(BaseModel):
    low: int
    high: int


class Limit(BaseModel):
    """A limit and its use, in whole numbers of `unit`: `cap` is `spent`, `held` and `left`.

    `held` is what tasks in progress may use. A settlement may pass a budget: `left` is 0 then.
    """

    scope: Annotated[
        Literal["org", "project", "key"], Field(description="Whom it binds, the caller among them.")
    ]
    metric: Literal["money", "videos", "seconds", "tokens", "tasks", "rpm"]
    window: Literal["day", "month", "ever"] | None
    unit: Annotated[str, Field(description="`micros` are millionths of the currency's unit.")]
    cap: int
    spent: Annotated[
        int, Field(description="Of `rpm`, the submits that have not come free again yet.")
    ]
    held: int
    left: int
    resets_at: Annotated[
        int | None,
        Field(
            description="Unix time in seconds: when the window ends, or all of `rpm` is free "
            "again; null if that is never, or now."
        ),
    ]


class Limits(BaseModel):
    """Every limit that binds the key; none exists until it is set."""

    currency: str
    limits: list[Limit]


class TaskPage(BaseModel):
    """Tasks of the last seven days, newest first."""

    total: Annotated[int, Field(ge=0, description="Of all pages.")]
    items: list[Task]


class Cancelled(BaseModel):
    """An empty object."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(BaseModel):
    """`message` ends in `Request id: <id>`, the value of the header `X-Request-Id`."""

    code: Annotated[str, Field(description="Stable; docs/errors.md lists all of them.")]
    message: str
    param: Annotated[str, Field(description="The field that is wrong, or empty.")]
    type: str


class Error(BaseModel):
    """The body of every error."""

    error: ErrorBody


class Estimate(BaseModel):
    """What a request may cost, in millionths of the currency's unit; `high` is what is held."""

    request: Annotated[dict[str, object], Field(description="The form that would be sent.")]
    tokens: Bounds
    charge_micros: Bounds
    currency: str
    price_version: str
    would_refuse: Annotated[
        ErrorBody | None,
        Field(
            description="What a submit with the same headers would be told now; null: let in, or "
            "answered the task that its `Idempotency-Key` stands for already."
        ),
    ]


class Health(BaseModel):
    """`checks` is there if `?verbose` is asked for."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] | None = None


MODELS: Final[tuple[type[BaseModel], ...]] = (
    SubmitRequest,
    Submitted,
    SubmittedWithMessage,
    Task,
    TaskWithRequest,
    TaskPage,
    Cancelled,
    Estimate,
    Limits,
    Error,
    Health,
)
"""What openapi.py takes; the others come along as parts of these."""

_ID: Final = "cgt-20261122150102-q7w2xk5mabc3de4fgh6j"
_MODEL: Final = "doubao-seedance-1-0-pro-250528"
_MESSAGE: Final = "Seedance Video Generation - Submit"
_IMAGE: Final = {"type": "image_url", "image_url": {"url": "https://img.example/boat.png"}}
_TASK: Final[dict[str, object]] = {
    "id": _ID,
    "model": _MODEL,
    "status": "succeeded",
    "content": {"video_url": "https://videos.example/q7w2x.mp4"},
    "usage": {"completion_tokens": 49005, "total_tokens": 49005},
    "created_at": 1795359662,
    "updated_at": 1795359741,
    "seed": 51877,
    "resolution": "480p",
    "ratio": "16:9",
    "duration": 5,
    "framespersecond": 24,
    "service_tier": "default",
    "execution_expires_after": 172800,
}
_LIFTED: Final = [{"type": "text", "text": "Paper boats drift past a lighthouse"}, _IMAGE]

EXAMPLES: Final[dict[str, object]] = {
    "SubmitRequest": {
        "model": _MODEL,
        "content": [
            {
                "type": "text",
                "text": "Paper boats drift past a lighthouse --resolution 480p --duration 5",
            },
            _IMAGE,
        ],
    },
    "Submitted": {"id": _ID},
    "SubmittedWithMessage": {"id": _ID, "message": _MESSAGE},
    "Task": _TASK,
    "TaskWithRequest": {
        **_TASK,
        "message": _MESSAGE,
        "request": {"model": _MODEL, "content": _LIFTED},
    },
    "TaskPage": {"total": 1, "items": [_TASK]},
    "Estimate": {
        "request": {"model": _MODEL, "content": _LIFTED, "resolution": "480p", "duration": 5},
        "tokens": {"low": 49005, "high": 49005},
        "charge_micros": {"low": 735075, "high": 735075},
        "currency": "CNY",
        "price_version": "volcengine-cny/2025-05-28/1f0c22aa",
        "would_refuse": None,
    },
    "Limits": {
        "currency": "CNY",
        "limits": [
            {
                "scope": "project",
                "metric": "money",
                "window": "month",
                "unit": "micros",
                "cap": 500000000,
                "spent": 735075,
                "held": 0,
                "left": 499264925,
                "resets_at": 1796054400,
            }
        ],
    },
    "Error": {
        "error": {
            "code": "InvalidParameter",
            "message": "the parameter duration specified in the request is not valid for model "
            "doubao-seedance-1-0-pro in i2v: 13 is given, allowed are 2 to 12. "
            "Request id: 5b2f7c0e9a1d4c6fb3e8d7a6c5b4a392",
            "param": "duration",
            "type": "BadRequest",
        }
    },
}
"""By name of the model. Kept apart from it, because pydantic would sort their fields."""
