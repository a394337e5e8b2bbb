// The page: speaks a text or a script, plays it while it streams, adds voices.
const RATE_HZ = 44100; // the model's own
const at = (id) => document.getElementById(id);

let run = null; // what is being spoken now

function headers(more = {}) {
  const key = at("key").value || sessionStorage.getItem("key");
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

function say(place, text, wrong = false) {
  at(place).textContent = text;
  at(place).classList.toggle("wrong", wrong);
}

async function checked(response) {
  if (response.ok) return response;
  if (response.status === 401) at("key-row").hidden = false;
  const body = await response.json().catch(() => null);
  throw new Error(body?.error?.message ?? `the gateway answered ${response.status}`);
}

async function listVoices(chosen) {
  const response = await checked(await fetch("v1/audio/voices", { headers: headers() }));
  const { voices } = await response.json();
  at("voice").replaceChildren(...voices.map(({ name }) => new Option(name, name)));
  if (chosen) at("voice").value = chosen;
}

function scriptOf(text) {
  if (at("form").elements.mode.value === "text") {
    return [{ speaker_id: at("voice").value, text }];
  }
  return text.split("\n").filter((line) => line.trim()).map((line, index) => {
    const [, speaker, said] = /^([^:]+):(.*)$/.exec(line) ?? [];
    if (!said?.trim()) throw new Error(`line ${index + 1} is no "Voice: text"`);
    return { speaker_id: speaker.trim(), text: said.trim() };
  });
}

function requestOf(script) {
  const body = {
    script,
    voices: Object.fromEntries(script.map(({ speaker_id }) => [speaker_id, speaker_id])),
    response_format: "pcm", sample_rate: RATE_HZ, stream_format: "sse",
    silence_s: 0.3, speed: Number(at("speed").value || 1),
  };
  if (at("seed").value) body.seed = Number(at("seed").value);
  if (at("temperature").value) body.temperature = Number(at("temperature").value);
  return body;
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) yield JSON.parse(event.replace(/^data: /, ""));
  }
}

function samplesOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}

class Run {
  constructor(script) {
    this.script = script;
    this.abort = new AbortController();
    this.pieces = [];
    this.samples = 0;
    this.captions = [];
    this.peaks = [];
    this.played = 0;
    this.begin = performance.now();
  }

  async play() {
    this.context = new AudioContext({ sampleRate: RATE_HZ });
    if (!this.context.audioWorklet) throw new Error("sound needs https, or this machine's own localhost");
    await this.context.audioWorklet.addModule("page/player.js");
    await this.context.resume();
    this.player = new AudioWorkletNode(this.context, "player", { outputChannelCount: [1] });
    this.player.connect(this.context.destination);
    const ended = new Promise((resolve) => {
      this.player.port.onmessage = ({ data }) => {
        this.played = data.played;
        document.documentElement.dataset.loudest = data.loudest;
        this.show();
        if (data.ended) resolve();
      };
      this.abort.signal.addEventListener("abort", resolve);
    });
    await this.fetch();
    await ended;
  }

  async fetch() {
    const response = await checked(await fetch("v1/audio/scripts", {
      method: "POST", body: JSON.stringify(requestOf(this.script)),
      headers: headers({ "Content-Type": "application/json" }), signal: this.abort.signal,
    }));
    for await (const event of eventsOf(response)) {
      if (event.type === "speech.audio.delta") this.add(samplesOf(event.audio));
      else if (event.type === "speech.caption") this.captions.push(event);
      else if (event.type === "speech.audio.error") throw new Error(event.error.message);
    }
    const wall = (performance.now() - this.begin) / 1000;
    at("rtf").textContent = (wall / (this.samples / RATE_HZ)).toFixed(2);
    this.player.port.postMessage("complete");
    this.offerDownload();
  }

  add(levels) {
    if (!this.samples) at("first").textContent = `${Math.round(performance.now() - this.begin)} ms`;
    this.pieces.push(levels);
    this.samples += levels.length;
    const waveform = Float32Array.from(levels, (level) => level / 32767);
    const step = RATE_HZ / 50; // a peak every 20 ms
    for (let i = 0; i < waveform.length; i += step) {
      this.peaks.push(waveform.subarray(i, i + step).reduce((a, b) => Math.max(a, Math.abs(b)), 0));
    }
    this.player.port.postMessage(waveform, [waveform.buffer]);
  }

  show() {
    const heard = this.played / RATE_HZ;
    at("seconds").textContent = `${(this.samples / RATE_HZ).toFixed(2)} s`;
    at("played").textContent = `${heard.toFixed(2)} s`;
    // A caption comes when its segment is complete; the segment after it has begun then.
    const done = this.captions.findIndex((caption) => heard < caption.end);
    const index = Math.min(done < 0 ? this.captions.length : done, this.script.length - 1);
    const { speaker_id, text } = this.script[index];
    const words = this.script.length > 1 ? `${speaker_id}: ${text}` : text;
    if (this.samples && at("caption").textContent !== words) at("caption").textContent = words;
    this.draw();
  }

  draw() {
    const canvas = at("wave"), context = canvas.getContext("2d");
    const style = getComputedStyle(document.body);
    const { width, height } = canvas;
    const bars = Math.min(this.peaks.length, width / 2) || 1;
    const share = this.samples ? this.played / this.samples : 0;
    context.clearRect(0, 0, width, height);
    for (let bar = 0; bar < bars; bar++) {
      const from = Math.floor((bar * this.peaks.length) / bars);
      const to = Math.max(from + 1, Math.floor(((bar + 1) * this.peaks.length) / bars));
      const peak = Math.max(0.01, ...this.peaks.slice(from, to));
      context.fillStyle = bar / bars < share ? getComputedStyle(at("speak")).backgroundColor : style.color;
      context.globalAlpha = bar / bars < share ? 1 : 0.35;
      context.fillRect((bar * width) / bars, (height * (1 - peak)) / 2, Math.max(1, width / bars - 1), height * peak);
    }
    context.globalAlpha = 1;
  }

  offerDownload() {
    const header = new DataView(new ArrayBuffer(44));
    const word = (at, text) => [...text].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
    const size = this.samples * 2;
    word(0, "RIFF"); header.setUint32(4, 36 + size, true); word(8, "WAVEfmt ");
    header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 1, true);
    header.setUint32(24, RATE_HZ, true); header.setUint32(28, RATE_HZ * 2, true);
    header.setUint16(32, 2, true); header.setUint16(34, 16, true);
    word(36, "data"); header.setUint32(40, size, true);
    URL.revokeObjectURL(at("download").href);
    at("download").href = URL.createObjectURL(new Blob([header, ...this.pieces], { type: "audio/wav" }));
    at("download").hidden = false;
  }

  stop() {
    this.abort.abort();
    this.player?.disconnect();
    if (this.context?.state !== "closed") this.context?.close();
  }
}

async function speak(event) {
  event?.preventDefault();
  stop();
  for (const id of ["first", "rtf", "seconds", "played"]) at(id).textContent = "–";
  at("caption").textContent = "";
  at("download").hidden = true;
  let mine = null;
  try {
    mine = run = new Run(scriptOf(at("text").value));
    at("stop").disabled = false;
    say("status", "Speaking");
    await mine.play();
    if (run === mine) say("status", "Done");
  } catch (error) {
    if (error.name !== "AbortError") say("status", error.message, true);
  } finally {
    mine?.stop();
    if (run === mine) {
      run = null;
      at("stop").disabled = true;
    }
  }
}

function stop() {
  if (!run) return;
  run.stop();
  run = null;
  at("stop").disabled = true;
  say("status", "Stopped");
}

let recorder = null, recording = null;

async function record() {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      recording = new Blob(parts, { type: recorder.mimeType });
      recorder = null;
      at("record").textContent = "Record";
      at("record").setAttribute("aria-pressed", "false");
      at("recorded").textContent = "recorded";
    };
    recorder.start();
    at("record").textContent = "Stop recording";
    at("record").setAttribute("aria-pressed", "true");
    setTimeout(() => recorder?.stop(), 29000);
  } catch (error) {
    say("voice-status", `no microphone: ${error.message}`, true);
  }
}

async function addVoice(event) {
  event.preventDefault();
  const sample = at("sample").files[0] ?? recording;
  if (!sample) return say("voice-status", "choose a recording, or record one", true);
  const form = new FormData();
  form.set("name", at("name").value);
  form.set("transcript", at("transcript").value);
  form.set("consent", `stated on the page, ${new Date().toISOString()}`);
  form.set("audio_sample", sample, "recording");
  try {
    say("voice-status", "Encoding");
    await checked(await fetch("v1/audio/voices", { method: "POST", body: form, headers: headers() }));
    await listVoices(at("name").value);
    say("voice-status", "Added");
  } catch (error) {
    say("voice-status", error.message, true);
  }
}

at("form").addEventListener("submit", speak);
at("stop").addEventListener("click", stop);
at("record").addEventListener("click", record);
at("voice-form").addEventListener("submit", addVoice);
at("key").addEventListener("change", () => {
  sessionStorage.setItem("key", at("key").value);
  listVoices().then(() => say("status", ""), (error) => say("status", error.message, true));
});
at("mode").addEventListener("change", () => {
  at("voice-row").hidden = at("form").elements.mode.value === "script";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
  if (event.key === "Escape") stop();
});
listVoices().catch((error) => say("status", error.message, true));
