// One device: values, trail, plots, commands, messages and log.
import { ask, listen } from "./api.js";
import { chart } from "./charts.js";
import { age, clock, make, show } from "./dom.js";
import { CommandForm } from "./form.js";

const KEPT = 100; // entries that are shown

// Bytes in hexadecimal digits, with the place of the fault.
function bytes(entry) {
  if (typeof entry.packet !== "string") return null;
  return make("div", { class: "bytes" }, entry.packet.match(/../g)?.join(" ") || "", entry.offset !== undefined ? make("span", {}, `  (fault at byte ${entry.offset} of the stream)`) : null);
}

function logLine({ topic, entry }) {
  const what = topic.split("/").slice(-2).join(" ").replace(/^\d+ /, "");
  const more = entry.error_text || entry.reason || (entry.response !== undefined ? show(entry.response) : entry.source || "");
  return make("div", { class: "entry" }, `${clock(entry.timestamp)}  ${what}  ${more}`, bytes(entry));
}

function messageLine(message) {
  const { ident, peer, ...rest } = message;
  return make("div", { class: "entry" }, `${clock(message.timestamp)}  `, make("span", { class: "quiet" }, JSON.stringify(rest)));
}

export class Detail {
  constructor(ident, app) {
    this.ident = ident;
    this.app = app;
    this.path = "/api/devices/" + encodeURIComponent(ident);
    for (const part of ["head", "values", "charts", "waiting", "sending", "life", "messages", "log"]) this[part] = make("div", { class: part });
    this.element = [make("div", { class: "page" }, make("a", { class: "back", href: "#/" }, "‹ Devices"), this.head,
      this.waiting, this.sending, this.life, this.charts, make("h3", {}, "Last values"), this.values,
      make("h3", {}, "Log"), this.log, make("h3", {}, "Messages"), this.messages)];
    this.load();
  }

  close() { this.closed = true; this.stop?.(); this.app.map.follow(null, []); }

  async load() {
    try {
      const [device, track, log, messages, fields] = await Promise.all([ask(this.path), ask(this.path + "/track"), ask(this.path + "/log"), ask(this.path + "/messages"), this.app.fields()]);
      if (this.closed) return;
      this.device = device.body;
      this.units = fields;
      this.track = track.body;
      this.log.replaceChildren(...log.body.slice(0, KEPT).map(logLine));
      this.messages.replaceChildren(...messages.body.slice(0, KEPT).map(messageLine));
      this.draw();
      this.app.map.follow(this.device, this.track.geometry.coordinates);
      this.stop?.();
      this.stop = listen(null, this.ident, this.handlers(), () => {});
      await Promise.all([this.loadWaiting(), this.makeForm()]);
    } catch (error) {
      this.head.replaceChildren(make("p", { class: "fault" }, error.message));
    }
  }

  handlers() {
    return {
      message: (message) => this.take(message),
      log: (entry) => this.takeLog(entry),
      waiting: () => this.loadWaiting(),
      device: (row) => { if (row.ident === this.ident) { Object.assign(this.device, row); this.drawHead(); } },
      reset: () => this.load(),
    };
  }

  take(message) {
    for (const [name, value] of Object.entries(message))
      if (message.timestamp >= (this.device.values[name]?.timestamp || 0)) this.device.values[name] = { value, timestamp: message.timestamp };
    const place = [message["position.longitude"], message["position.latitude"]];
    if (place[0] !== undefined && place[1] !== undefined) this.track.geometry.coordinates.push(place);
    this.track.properties.samples.push(message);
    this.messages.prepend(messageLine(message));
    this.messages.children[KEPT]?.remove();
    this.draw();
    this.app.map.follow(message["position.latitude"] !== undefined ? message : null, this.track.geometry.coordinates);
  }

  takeLog(line) {
    if (line.entry.ident && line.entry.ident !== this.ident) return;
    if (!line.entry.ident && line.entry.device_id !== this.device.id) return;
    this.log.prepend(logLine(line));
    this.log.children[KEPT]?.remove();
    if (this.mark && line.entry.meta?.web === this.mark) this.tellLife(line);
  }

  tellLife({ topic, entry }) {
    const step = topic.split("/").at(-1);
    const end = step !== "processed" ? step : entry.executed ? `answered: ${show(entry.response ?? "done")}` : `failed: ${entry.reason || ""}`;
    this.life.append(make("p", { class: step === "processed" && !entry.executed ? "bad" : "" }, `${entry.name} ${end}`));
  }

  draw() { this.drawHead(); this.drawValues(); this.drawCharts(); }

  drawHead() {
    const device = this.device;
    this.head.replaceChildren(make("h2", {}, device.name), make("p", { class: "quiet" }, `${device.ident}${device.protocol ? ", " + device.protocol : ""}, ${device.connected ? "connected" : "disconnected"}${device.last_active ? ", heard " + age(device.last_active) + " ago" : ""}`),
      ...(device.alarm ? [make("p", { class: "alarm" }, `${device.alarm} (${age(device.notable_at)} ago)`)] : []));
  }

  drawValues() {
    const rows = Object.entries(this.device.values).sort(([a], [b]) => a < b ? -1 : 1).map(([name, { value, timestamp }]) =>
      make("tr", {}, make("th", {}, name), make("td", {}, show(value) + (this.units.get(name)?.unit ? " " + this.units.get(name).unit : "")), make("td", { class: "age" }, age(timestamp))));
    this.values.replaceChildren(make("table", {}, make("tbody", {}, ...rows)));
  }

  drawCharts() {
    const samples = this.track.properties.samples;
    this.charts.replaceChildren(...[chart("Speed", "km/h", samples, "position.speed"), chart("Battery", "V", samples, "battery.voltage")].filter(Boolean));
  }

  async loadWaiting() {
    const { body } = await ask(this.path + "/commands");
    const rows = body.map((command) => make("tr", {}, make("td", {}, command.name || "custom"), make("td", {}, command.properties ? JSON.stringify(command.properties) : ""),
      make("td", { class: "age" }, this.app.session.commands ? make("button", { onclick: () => this.cancel(command.id) }, "Cancel") : "")));
    this.waiting.replaceChildren(...(rows.length ? [make("h3", {}, "Waiting commands"), make("table", {}, make("tbody", {}, ...rows))] : []));
  }

  async cancel(id) {
    try { await ask(`${this.path}/commands/${encodeURIComponent(id)}`, { method: "DELETE" }); }
    catch (error) { this.life.append(make("p", { class: "bad" }, error.message)); }
  }

  async makeForm() {
    if (!this.app.session.commands || !this.device.protocol || this.form) return;
    const { body } = await ask("/api/commands/" + encodeURIComponent(this.device.protocol));
    this.form = new CommandForm(body, async (command) => {
      const answer = await ask(this.path + "/commands", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(command) });
      this.mark = answer.body.mark;
      this.life.replaceChildren(make("p", {}, `${command.name} published`));
    });
    this.sending.replaceChildren(make("h3", {}, "Send a command"), this.form.element);
  }
}
