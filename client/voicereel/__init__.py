"""VoiceReel: the client of voicereel-triton, Fish-Speech served by NVIDIA Triton."""

from voicereel.audio import Audio, AudioChunk
from voicereel.client import Client
from voicereel.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerError,
    ServerUnavailable,
    VoiceReelError,
)
from voicereel.request import Options, Voice
from voicereel.voice import VoiceFeatures

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "AudioChunk",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "InvalidRequest",
    "Options",
    "Overloaded",
    "ServerError",
    "ServerUnavailable",
    "Voice",
    "VoiceFeatures",
    "VoiceReelError",
]
