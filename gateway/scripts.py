"""`POST /v1/audio/scripts`: a script of many speakers becomes one track, with captions."""

import base64
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.answers import Flow, answer
from gateway.doors import caller_of, done
from gateway.errors import ApiError, invalid
from gateway.fields import checked, json_body, options_of
from gateway.gateway import Gateway
from gateway.settings import DEFAULT_VOICE, Settings
from gateway.sound import SPEEDS, Piece, Shape, Track, encoded
from gateway.speech import MODEL, model_of, shape_of, text_of
from voicereel import Client, InvalidRequest, ReelPiece, parse_script, stream_script
from voicereel.captions import Caption, as_json, srt, vtt
from voicereel.options import OPTIONS
from voicereel.script.segment import MAX_SILENCE_S, Script

MAX_SEGMENTS = 1000
_WORKERS = 4  # requests in flight for one script, as the client has it
_WRITERS: dict[str, Callable[[list[Caption]], str]] = {"srt": srt, "vtt": vtt, "json": as_json}


class Body(BaseModel):
    """The fields of the request, but the options of the model."""

    model_config = ConfigDict(extra="forbid")
    model: StrictStr = MODEL
    script: Annotated[list[dict[str, Any]], Field(max_length=MAX_SEGMENTS)]
    voices: dict[str, StrictStr] = Field(default_factory=dict)
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    captions: Literal["srt", "vtt", "json"] | None = None
    speed: Annotated[StrictInt | StrictFloat, Field(ge=SPEEDS[0], le=SPEEDS[1])] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    stream: StrictBool = True
    sample_rate: StrictInt = 0
    language: StrictStr = "en"
    silence_s: Annotated[StrictInt | StrictFloat, Field(ge=0, le=MAX_SILENCE_S)] = 0.0
    on_error: Literal["raise", "skip"] = "raise"


@dataclass(frozen=True)
class Play:
    """A script that is asked for, checked.

    Attributes:
        segments: Who says what.
        voices: Name of the voice of each speaker.
        shape: How the audio leaves.
        how: Of `stream_script`.
    """

    segments: Script
    voices: dict[str, str]
    shape: Shape
    how: dict[str, Any]

    def pieces(self, gateway: Gateway, track: Track, captions: list[Caption]) -> Generator[Piece]:
        """Speak it into a track; blocks.

        Args:
            gateway: Has voices and servers.
            track: The audio.
            captions: Gets a caption for each segment that has been spoken.
        """
        features = {speaker: gateway.voices.find(name) for speaker, name in self.voices.items()}

        def reel(client: Client) -> Generator[ReelPiece]:
            return stream_script(client, self.segments, features, **self.how)

        def captions_of(piece: ReelPiece) -> tuple[Caption, ...]:
            if piece.caption is None:
                return ()
            captions.append(faster(piece.caption, self.shape.speed))
            return (captions[-1],)

        return encoded(gateway.servers.stream(reel), track, captions_of)


def faster(caption: Caption, speed: float) -> Caption:
    """A caption of the same audio at another tempo."""

    def moved(span: Any) -> Any:
        return {**span, "start": span["start"] / speed, "end": span["end"] / speed}

    found = moved(caption)
    if "parts" in found:  # spans of a long segment
        found["parts"] = [moved(part) for part in found["parts"]]
    return found


def play_of(body: dict[str, Any], settings: Settings, *, whole: bool) -> tuple[Body, Play]:
    """Check a request.

    Raises:
        ApiError: 422 for the first field that is wrong, 404 for an unknown model.
    """
    body = dict(body)
    options = options_of(body)
    fields = checked(Body, body, extra=", ".join(OPTIONS))
    model_of(fields.model, settings)
    try:
        segments = parse_script(fields.script)
    except InvalidRequest as error:
        raise ApiError(422, str(error), "script") from None
    text_of(" ".join(segment.text for segment in segments), "script", settings)
    speakers = dict.fromkeys(segment.speaker_id for segment in segments)
    if superfluous := fields.voices.keys() - speakers.keys():
        raise invalid("voices", f"has {min(superfluous)!r}, who says nothing in the script")
    voices = {speaker: fields.voices.get(speaker, DEFAULT_VOICE) for speaker in speakers}
    if fields.stream_format == "sse" and not fields.stream:
        raise invalid("stream", "is false, but stream_format sse is a stream")
    shape = shape_of(
        fields.response_format, fields.sample_rate, fields.speed, whole or not fields.stream
    )
    how = {"max_workers": _WORKERS, "silence_s": fields.silence_s, "on_error": fields.on_error,
           "language": fields.language, **options}  # fmt: skip
    return fields, Play(segments, voices, shape, how)


async def scripts(request: Request) -> Response:
    """`POST /v1/audio/scripts`."""
    gateway = request.state.gateway
    body = json_body(await request.body())
    sse = body.get("stream_format") == "sse"
    # Captions are complete with the audio, so both beside each other are one whole answer.
    beside = body.get("captions") is not None and not sse
    cannot_stream = request.scope["http_version"] == "1.0" and not sse
    fields, play = play_of(body, gateway.settings, whole=cannot_stream or beside)
    caller, track = caller_of(request), Track(play.shape)
    captions: list[Caption] = []

    def flow() -> Flow:
        account = gateway.account(caller, "script", fields.model, play.shape.format)
        pieces = gateway.streams.open(caller, lambda: play.pieces(gateway, track, captions))
        return Flow(pieces, track, account)

    def ends(track: Track) -> dict[str, Any]:
        said = sum(len(segment.text) for segment in play.segments)
        text = {"captions": _WRITERS[fields.captions](captions)} if fields.captions else {}
        return {**done(said, track), **text}

    def both(data: bytes, track: Track) -> Response:
        audio = base64.b64encode(data).decode()
        return JSONResponse({**ends(track), "type": "script", "audio": audio})

    return await answer(request, caller, flow, sse=sse, ends=ends, wrap=both if beside else None)
