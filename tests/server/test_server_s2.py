"""A real tritonserver with a tiny S2 checkpoint: all doors, voices, dialogues, refusals."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = [pytest.mark.torch, pytest.mark.server, pytest.mark.slow]

from engine.lm.load import load_runner
from ensemble.contract import manifest
from ensemble.contract.facts import Facts
from ensemble.contract.options import sampling_from
from ensemble.contract.voice import Reference
from export.lm import export_llama
from families.fish_s2.checkpoint import load_checkpoint, load_llama
from families.fish_s2.engine_llama import engine_llama, language_facts
from families.registry import prompt_builder
from launch.doctor.repository import artefacts
from launch.server import Server
from support.engine import Collected
from support.launched import wait_until
from support.raw import llama_metrics, outcomes, stream
from support.s2_golden import write_checkpoint
from voicereel import Client, InvalidRequest, VoiceFeatures, synthesize_script

TEXT = "Hello world, this is a test."


@pytest.fixture(scope="module")
def s2_repository(repository: Path, tiny_checkpoint: Path, tmp_path_factory) -> Path:
    """S1's, whose codec is S2's as well, with the language model of S2."""
    folder = tmp_path_factory.mktemp("s2")
    checkpoint = load_checkpoint(write_checkpoint(folder / "checkpoint", tiny_checkpoint))
    made = Path(shutil.copytree(repository, folder / "repository"))
    shutil.rmtree(folder / "repository" / "fish_llama" / "1")
    genuine = load_llama(checkpoint)
    llama = engine_llama(genuine)
    target = made / "fish_llama" / "1"
    export_llama(genuine, llama, torch.bfloat16, target, lambda _: None, torchscript_only=True)
    shutil.copyfile(repository / "fish_llama" / "1" / "model.py", target / "model.py")
    facts = dataclasses.replace(
        Facts.load(repository / "fish_prompt" / "1"), family="fish_s2",
        checkpoint_id=checkpoint.checkpoint_id, **language_facts(checkpoint),
    )  # fmt: skip
    for model in ("fish_checkpoint", "fish_llama", "fish_prompt", "fish_reference"):
        facts.save(made / model / "1")
    for name in ("tokenizer.tiktoken", "special_tokens.json"):
        (made / "fish_prompt" / "1" / name).unlink()
    shutil.copyfile(checkpoint.path / "tokenizer.json", made / "fish_prompt/1/tokenizer.json")
    for folder in {target, *(written.parent for written in made.glob("*/1/artefacts.json"))}:
        manifest.write(folder, facts)
    return made


@pytest.fixture(scope="module")
def s2_server(s2_repository: Path, tmp_path_factory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("s2") / "log"
    environment = {"FISH_SPEECH_PRECISION": "full"}
    with Server(s2_repository, log_path=log, environment=environment) as server:
        yield server
        assert server.running, log.read_text()[-4000:]


@pytest.fixture(scope="module")
def client(s2_server: Server) -> Iterator[Client]:
    with Client(s2_server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def voice(client: Client) -> VoiceFeatures:
    return client.encode_voice("assets/voices/alice.flac", "Please bring me seven candles.")


def spoken(s2_repository: Path, text: str, references: list[Reference], **asked: Any) -> Any:
    """The codes that the engine gives in this process."""
    from engine.schedule.scheduler import Scheduler
    from support.engine import FULL

    builder = prompt_builder(s2_repository / "fish_prompt" / "1")
    table, prefix, parts = builder.build_parts(text, references)
    got = Collected()
    request = got.request(table, sampling_from(asked, builder.facts), prefix)
    scheduler = Scheduler(load_runner(s2_repository / "fish_llama" / "1", FULL), 1)
    scheduler.submit(dataclasses.replace(request, parts=tuple(parts)))
    while scheduler.step():
        pass
    return got.codes


def test_doctor_finds_every_file(s2_repository: Path) -> None:
    assert {f.status for f in artefacts(s2_repository)} == {"ok"}


def test_every_door_says_the_same(client, s2_server, s2_repository, voice, codec) -> None:
    """Stream and whole, with a voice as codes and as a recording; the codes are the engine's."""
    whole = client.synthesize(TEXT, voice, seed=3, max_new_tokens=40)
    chunks = list(client.stream(TEXT, voice, seed=3, max_new_tokens=40))
    # TorchScript's decoder rounds with the length of a window; on kernels the bits are the same.
    streamed = np.concatenate([c.waveform for c in chunks])
    np.testing.assert_allclose(streamed, whole.waveform, atol=1e-4)
    path = "assets/voices/alice.flac"
    words = "Please bring me seven candles."
    cloned = client.synthesize(TEXT, path, voice_text=words, seed=3, max_new_tokens=40)
    np.testing.assert_array_equal(cloned.waveform, whole.waveform)
    references = [Reference(voice.texts[0], voice.codes)]
    codes = spoken(s2_repository, TEXT, references, seed=3, max_new_tokens=40)
    assert len(whole) == codes.shape[1] * 2048
    lengths = torch.tensor([codes.shape[1]])
    expected = codec.decode(torch.from_numpy(codes)[None], lengths)[0][0, 0].numpy()
    np.testing.assert_allclose(whole.waveform, expected, atol=1e-4)
    again = client.synthesize(TEXT, voice, seed=3, max_new_tokens=40)  # the prefix is warm
    np.testing.assert_array_equal(again.waveform, whole.waveform)


def test_the_server_says_what_it_is_and_its_defaults(client: Client) -> None:
    found = client.checkpoint()
    assert (found.family, found.is_dialogue) == ("fish_s2", True)
    assert found.notice.startswith("Built with Fish Audio")
    defaults = {name: found.defaults[name] for name in ("top_k", "ras_window", "temperature")}
    assert defaults == {"top_k": 30, "ras_window": 10, "temperature": 0.8}
    with_defaults = client.synthesize("Hi", seed=1, max_new_tokens=20, **defaults)
    left_out = client.synthesize("Hi", seed=1, max_new_tokens=20)
    np.testing.assert_array_equal(with_defaults.waveform, left_out.waveform)


def test_a_dialogue_through_the_server_is_the_engines(client, s2_repository, voice) -> None:
    """Eight turns: two parts, of which the second has heard the first."""
    script = [{"speaker_id": "AB"[i % 2], "text": f"This is turn {i}."} for i in range(8)]
    voices = {"A": voice, "B": voice}
    audio, captions = synthesize_script(
        client, script, voices, together=True, seed=5, max_new_tokens=400
    )
    assert [c["text"] for c in captions] == [s["text"] for s in script]
    assert captions[-1]["end"] == pytest.approx(audio.duration_s)
    text = "".join(f"<|speaker:{i % 2}|>{s['text']}" for i, s in enumerate(script))
    references = [Reference(f"<|speaker:{i}|>{voice.texts[0]}", voice.codes) for i in range(2)]
    codes = spoken(s2_repository, text, references, seed=5, max_new_tokens=400)
    assert len(audio) == codes.shape[1] * 2048


REFUSED = {
    "a speaker without a reference": (
        "<|speaker:0|>Hi<|speaker:1|>Ho", r"turns of speaker 1, but the recordings are of speaker 0"
    ),
    "300 turns": ("<|speaker:0|>a" * 300, "300 turns, expected at most 100"),
    "tags without text": ("<|speaker:0|>", "turn 0 of the text .* is empty"),
    "20,001 characters": ("<|speaker:0|>" + "x" * 20_000, "20013 characters, expected at most"),
    "beyond the context": ("<|speaker:0|>" + "word " * 3000, "positions .* expected at most 2048"),
    "numbers that skip": ("<|speaker:2|>Hi", "turns of speaker 2"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_bad_dialogues_are_refused(client, voice, what) -> None:
    text, message = REFUSED[what]
    with pytest.raises(InvalidRequest, match=message):
        client.synthesize(text, voice)


def test_a_listener_who_leaves_a_dialogue_frees_its_slot(client, s2_server, voice) -> None:
    """In mid-speech, with no words of either side; what follows has its usual audio."""
    before = client.synthesize(TEXT, voice, seed=3, max_new_tokens=12)
    ended = outcomes(s2_server)
    chunks = client.stream("<|speaker:0|>Who is there?" * 9, voice, seed=4, first_chunk_frames=1)
    assert len(next(chunks).waveform)
    chunks.close()
    wait_until(lambda: outcomes(s2_server)["cancelled"] == ended["cancelled"] + 1)
    assert llama_metrics(s2_server)["fish_llama_active_slots"] == 0
    after = client.synthesize(TEXT, voice, seed=3, max_new_tokens=12)
    np.testing.assert_array_equal(after.waveform, before.waveform)


def test_what_is_s1s_is_refused(client, s2_server, voice) -> None:
    with pytest.raises(InvalidRequest, match=r"repetition_penalty is 1.2, but .* fish_s2"):
        client.synthesize("Hi", repetition_penalty=1.2)
    other = dataclasses.replace(voice, checkpoint_id="0123456789abcdef")
    with pytest.raises(InvalidRequest, match="were made by checkpoint 0123456789abcdef"):
        client.synthesize("Hi", other)
    prompt = np.zeros((11, 9), np.int32)
    with pytest.raises(InferenceServerException, match=r"prompt_parts is .* add up to the prompt"):
        stream(s2_server, "fish_llama", prompt=prompt, prompt_parts=np.array([4, 4], np.int32))
