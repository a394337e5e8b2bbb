"""VoiceReel: the client of voicereel-triton, Fish-Speech served by NVIDIA Triton."""

import logging

from voicereel.audio import Audio, AudioChunk, AudioWriter
from voicereel.caller import Caller
from voicereel.captions import Caption, save_captions
from voicereel.client import Client
from voicereel.errors import (
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerError,
    ServerUnavailable,
    VoiceReelError,
)
from voicereel.options import Options
from voicereel.script.files import load_script
from voicereel.script.segment import Segment, parse_script
from voicereel.script.speak import (
    Reel,
    ReelPiece,
    stream_script,
    synthesize_script,
    synthesize_script_async,
)
from voicereel.voice import Voice, VoiceFeatures

# Programs that want the log of this package set logging up; others see nothing of it.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "AudioChunk",
    "AudioWriter",
    "Caller",
    "Cancelled",
    "Caption",
    "Client",
    "ConfigurationError",
    "DeadlineExceeded",
    "InvalidRequest",
    "Options",
    "Overloaded",
    "Reel",
    "ReelPiece",
    "Segment",
    "ServerError",
    "ServerUnavailable",
    "Voice",
    "VoiceFeatures",
    "VoiceReelError",
    "load_script",
    "parse_script",
    "save_captions",
    "stream_script",
    "synthesize_script",
    "synthesize_script_async",
]
