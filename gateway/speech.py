"""A request for speech: its fields, and what they become for the client."""

import secrets
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from gateway.errors import ApiError, invalid
from gateway.fields import Words, checked, options_of, recording_bytes
from gateway.formats import FORMATS
from gateway.settings import Settings
from gateway.sound import SPEEDS, Shape, Sound
from voicereel import Client, VoiceFeatures, VoiceReelError, stream_script
from voicereel.options import OPTIONS
from voicereel.script.resumed import resumed
from voicereel.script.sentences import parts_of

MODEL = "voicereel"  # the one model there is; the aliases name others for it
MAX_REFERENCES = 8  # recordings of one voice in a request; more fill the prompt
_PARTS_IN_FLIGHT = 2  # the next part of a long text is made while one is heard
_SPEAKER = "voice"


class Reference(BaseModel):
    """A recording of a voice as base64, and the words spoken in it."""

    model_config = ConfigDict(extra="forbid")
    audio: StrictStr
    text: Words


class VoiceId(BaseModel):
    """A voice by its id."""

    model_config = ConfigDict(extra="forbid")
    id: StrictStr


class Body(BaseModel):
    """The fields of `POST /v1/audio/speech`, but the options of the model."""

    model_config = ConfigDict(extra="forbid")
    model: StrictStr
    input: Words
    voice: StrictStr | VoiceId
    instructions: StrictStr = ""
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[StrictInt | StrictFloat, Field(ge=SPEEDS[0], le=SPEEDS[1])] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    stream: StrictBool = True
    sample_rate: StrictInt = 0
    language: StrictStr = "en"
    references: Annotated[list[Reference], Field(max_length=MAX_REFERENCES)] = Field(
        default_factory=list
    )


@dataclass(frozen=True)
class Ask:
    """What is asked for, checked.

    Attributes:
        model: As the caller wrote it.
        text: What to say.
        prefix: Instructions, as the model reads them in front of a text.
        voice: Name or id.
        references: Recordings and their words; they join the voice.
        shape: How the audio leaves.
        sse: Whether it leaves as events.
        language: ISO 639 code, for cutting long texts.
        options: Of the model.
        ignored: Names of fields that have no effect, as the settings allow.
    """

    model: str
    text: str
    voice: str
    references: tuple[tuple[bytes, str], ...]
    shape: Shape
    sse: bool
    language: str
    options: dict[str, Any]
    prefix: str = ""
    ignored: tuple[str, ...] = ()

    def sounds(self, client: Client, voice: VoiceFeatures | None) -> Generator[Sound]:
        """The stream of this request; a long text in parts, as the client cuts it."""
        text = self.prefix + self.text
        if len(parts_of(text, self.language)) == 1:
            if not self.shape.whole:
                return client.stream(text, voice, **self.options)
            # A whole answer is not lost with the server that began it.
            options: Any = {"seed": secrets.randbits(64), **self.options}
            return resumed(partial(client.stream, text, voice, **options))
        return self._in_parts(client, text, voice)

    def _in_parts(self, client: Client, text: str, voice: VoiceFeatures | None) -> Generator[Sound]:
        script = [{"speaker_id": _SPEAKER, "text": text}]
        how: Any = {"max_workers": _PARTS_IN_FLIGHT, "language": self.language, **self.options}
        try:
            yield from stream_script(client, script, {_SPEAKER: voice}, **how)
        except VoiceReelError as error:  # the caller has no script whose segment could be named
            raise error.__cause__ or error from None


def ask_of(body: dict[str, Any], settings: Settings, *, whole: bool = False) -> Ask:
    """Check the fields of a request.

    Args:
        body: Its JSON object.
        settings: Of the gateway.
        whole: Whether the answer must be whole, since the protocol cannot stream.

    Raises:
        ApiError: 422 for the first field that is wrong, 404 for an unknown model.
    """
    body = dict(body)
    options = options_of(body)
    fields = checked(Body, body, extra=", ".join(OPTIONS))
    text_of(fields.input, "input", settings)
    model_of(fields.model, settings)
    shape = shape_of(
        fields.response_format, fields.sample_rate, fields.speed, whole or not fields.stream
    )
    if fields.stream_format == "sse" and not fields.stream:
        raise invalid("stream", "is false, but stream_format sse is a stream")
    prefix, ignored = _instructed(fields.instructions, settings)
    voice = fields.voice if isinstance(fields.voice, str) else fields.voice.id
    references = tuple(
        (recording_bytes(each.audio, f"references.{index}.audio"), each.text)
        for index, each in enumerate(fields.references)
    )
    return Ask(fields.model, fields.input, voice, references, shape, fields.stream_format == "sse",
               fields.language, options, prefix, ignored)  # fmt: skip


def text_of(text: str, param: str, settings: Settings) -> str:
    """The text itself.

    Raises:
        ApiError: 422, if it is too long.
    """
    if len(text) > settings.max_text_characters:
        raise ApiError(
            422,
            f"{param} has {len(text)} characters, expected at most "
            f"{settings.max_text_characters}. Send it in parts",
            param,
            "text_too_long",
        )
    return text


def model_of(name: str, settings: Settings) -> None:
    """Refuse a model that there is not.

    Raises:
        ApiError: 404.
    """
    known = [MODEL, *settings.aliases.models]
    if name not in known:
        raise ApiError(
            404, f"no model {name!r}; there are {', '.join(known)}", "model", "model_not_found"
        )


def shape_of(format: str, rate_hz: int, speed: float, whole: bool) -> Shape:
    """The shape of the audio; `rate_hz` 0 is the format's own rate.

    Raises:
        ApiError: 422, if the format cannot have the rate.
    """
    found = FORMATS[format]
    if rate_hz and rate_hz not in found.rates_hz:
        rates = ", ".join(map(str, found.rates_hz))
        raise invalid("sample_rate", f"is {rate_hz}, expected for {format} one of {rates}")
    return Shape(format, rate_hz or found.default_rate_hz, float(speed), whole)


def _instructed(instructions: str, settings: Settings) -> tuple[str, tuple[str, ...]]:
    """What comes before the text, and the fields that are ignored."""
    if not instructions.strip():
        return "", ()
    if settings.instructions == "inline":  # as Fish Audio S2 reads them
        return f"[{instructions.strip()}] ", ()
    if settings.instructions == "ignore":
        return "", ("instructions",)
    raise invalid("instructions", "are not understood by this model; leave them out")
