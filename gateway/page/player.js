// Plays samples as they come, in the browser's audio thread; says how far it is.
class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.pieces = []; // Float32Array
    this.offset = 0; // samples of the first piece that were played
    this.played = 0;
    this.complete = false; // nothing more comes
    this.loudest = 0; // of what was played: a test asks whether there is sound
    this.port.onmessage = ({ data }) => {
      if (data === "complete") this.complete = true;
      else this.pieces.push(data);
    };
  }

  process(_inputs, [[output]]) {
    let at = 0;
    while (at < output.length && this.pieces.length) {
      const piece = this.pieces[0];
      const taken = piece.subarray(this.offset, this.offset + output.length - at);
      output.set(taken, at);
      for (const sample of taken) this.loudest = Math.max(this.loudest, Math.abs(sample));
      at += taken.length;
      this.offset += taken.length;
      if (this.offset === piece.length) {
        this.pieces.shift();
        this.offset = 0;
      }
    }
    this.played += at;
    const ended = this.complete && !this.pieces.length;
    this.blocks = (this.blocks ?? 0) + 1;
    if (ended || this.blocks % 8 === 0) {
      this.port.postMessage({ played: this.played, loudest: this.loudest, ended });
    }
    return !ended;
  }
}
registerProcessor("player", Player);
