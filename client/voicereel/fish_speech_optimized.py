"""VoiceReel's engine: one for a process, shared by its threads.

from voicereel.fish_speech_optimized import get_optimized_engine

engine = get_optimized_engine()
alice = engine.extract_speaker_features_fast(audio_path="alice.flac", reference_text="...")
audio, captions = engine.synthesize_speech_optimized(script=script, speaker_features={...})
"""

import threading

from voicereel.client import Client
from voicereel.engine import Engine
from voicereel.fish_speech_regular import RegularSpeaker
from voicereel.settings import settings

_lock = threading.Lock()
_engines: dict[str, Engine] = {}


def get_optimized_engine(url: str | None = None) -> Engine:
    """The engine of this process for a server; every call returns the same object.

    It speaks through a running server and connects with its first request. With
    VOICEREEL_USE_OPTIMIZED=false it is the regular engine instead: upstream's code in this process,
    with the checkpoint of VOICEREEL_CHECKPOINT, one request at a time.

    Args:
        url: HOST:PORT of the server's gRPC service; VOICEREEL_URL if left out, which is
            127.0.0.1:8001 by default.

    Raises:
        ConfigurationError: If a variable is wrong, or this machine cannot run the regular engine.
    """
    found = settings()
    with _lock:
        if not found.use_optimized:
            if "" not in _engines:
                _engines[""] = Engine(RegularSpeaker(found.checkpoint), found)
            return _engines[""]
        url = url or found.url
        if url not in _engines:
            _engines[url] = Engine(Client(url), found)
        return _engines[url]
