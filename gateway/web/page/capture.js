// The bytes of a device: a capture of it is started and ended here, and what came and went stands below.
import { ask } from "./api.js";
import { clock, make, spaced } from "./dom.js";

const KEPT = 100; // chunks that are shown
const SECONDS = 600;

const keyOf = ({ topic, entry }) => `${entry.instance} ${topic} ${entry.offset} ${entry.timestamp}`;

// Bytes in hexadecimal digits, and beside them what is text.
function chunkLine({ topic, entry }) {
  const sent = topic.endsWith("/send"), pairs = String(entry.packet).match(/../g) || [];
  const text = pairs.map((pair) => parseInt(pair, 16)).map((byte) => byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·").join("");
  return make("div", { class: "entry" }, ...spaced(make("time", {}, clock(entry.timestamp)), make("span", {}, sent ? "to the device" : "from the device"),
    make("span", { class: "quiet" }, [entry.transport, entry.source, `byte ${entry.offset}`].filter(Boolean).join(" · ")),
    make("div", { class: "bytes" }, pairs.join(" ")), make("div", { class: "bytes text" }, text)));
}

export const captureText = ({ instance, by, timestamp, seconds }) =>
  `captured by ${by || "somebody"} at the gateway ${instance}, until about ${clock(timestamp + seconds)}`;

export class Capture {
  // path: of the device; by: the name of this user's captures, or null when he may not capture.
  constructor(path, by) {
    this.path = path + "/capture";
    this.by = by;
    this.seen = new Set();
    this.state = make("div");
    this.chunks = make("div");
    this.button = make("button", { onclick: () => this.turn() });
    this.element = make("div", { class: "capture" }, make("h3", {}, "Bytes"), this.state, by ? this.button : null, this.chunks);
    this.running = [];
  }

  isMine() { return this.running.some((running) => running.by === this.by); }

  async load() {
    const { body } = await ask(this.path);
    this.running = body.running;
    if (this.isMine()) this.asked = false;
    for (const chunk of body.chunks.slice(0, KEPT).reverse()) this.take(chunk);
    this.draw();
  }

  take(chunk) {
    if (this.seen.has(keyOf(chunk))) return;
    if (this.seen.size > 10 * KEPT) this.seen.clear(); // they are older than what is loaded again
    this.seen.add(keyOf(chunk));
    this.chunks.prepend(chunkLine(chunk));
    this.chunks.children[KEPT]?.remove();
    this.draw();
  }

  // A gateway does not take part, and says why.
  refused({ by, instance, reason }) { if (by === this.by) this.tell(`${instance} refuses: ${reason}`); }

  // Stays until something else is asked for.
  tell(fault) { this.asked = false; this.fault = fault; this.draw(); }

  draw() {
    const lines = this.running.map(captureText);
    if (lines.length === 0) lines.push(this.asked ? "The gateways were asked; none has begun yet." : "No capture runs.");
    this.state.replaceChildren(...lines.map((line) => make("p", { class: "quiet" }, line)), ...(this.fault ? [make("p", { class: "bad" }, this.fault)] : []));
    this.button.textContent = this.isMine() ? "End the capture" : `Capture for ${SECONDS / 60} minutes`;
    this.element.hidden = !this.by && this.running.length === 0 && this.chunks.children.length === 0;
  }

  async turn() {
    const ends = this.isMine();
    this.button.disabled = true;
    this.fault = null;
    try {
      await ask(this.path, ends ? { method: "DELETE" } : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ seconds: SECONDS }) });
      this.asked = !ends && !this.isMine();
      this.draw();
    } catch (error) {
      this.tell(error.message);
    }
    this.button.disabled = false;
  }
}
