// One device: what it is doing, values, trail, plots, commands, messages and log.
import { ask } from "./api.js";
import { Capture } from "./capture.js";
import { chart } from "./charts.js";
import { age, ago, clock, make, show, spaced, speed, volts, words } from "./dom.js";
import { CommandForm } from "./form.js";
import { isAlarm } from "./list.js";
import { RegistryForm } from "./registry.js";

const KEPT = 100; // entries that are shown
const NONE = "None since the page's server was started."; // which keeps them in memory
const USUAL = ["ident", "peer", "channel.id", "device.id", "device.name", "device.type.id", "protocol.id", "timestamp", "server.timestamp", "message.type",
  "message.seqnum", "position.latitude", "position.longitude", "position.speed", "battery.voltage"]; // shown elsewhere

// Bytes in hexadecimal digits, with the place of the fault.
function bytes(entry) {
  if (typeof entry.packet !== "string") return null;
  const place = entry.offset !== undefined ? make("span", {}, ` (from byte ${entry.offset} of the stream)`) : null;
  return make("div", { class: "bytes" }, entry.packet.match(/../g)?.join(" ") || "", place);
}

// What a log entry is about: "identified", "connected", "mode sent".
function nameOf(topic) {
  const parts = topic.split("/");
  return parts.includes("commands-queue") ? parts.slice(-2).join(" ") : parts.at(-1);
}

function logLine({ topic, entry }) {
  const reason = topic.endsWith(`/${entry.reason}`) ? "" : entry.reason; // which says no more than the topic
  const more = entry.error_text || reason || (entry.response != null ? show(entry.response) : entry.source || "");
  return make("div", { class: "entry" }, ...spaced(make("time", {}, clock(entry.timestamp)), make("span", { class: topic.endsWith("/error") ? "bad" : "" }, nameOf(topic)), make("span", { class: "quiet" }, more), bytes(entry)));
}

function place(values) {
  const [latitude, longitude] = [values["position.latitude"], values["position.longitude"]];
  return latitude === undefined || longitude === undefined ? "" : `${latitude.toFixed(5)}, ${longitude.toFixed(5)}`;
}

// A last value for people: a time as such, with the day; yes or no.
function valueText(name, value, unit) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number" && /(^|\.)timestamp$/.test(name)) return clock(value);
  return show(value) + (unit ? " " + unit : "");
}

// The beginning of what the schema says of a field; all of it is its tooltip.
const brief = ({ title, description = "" }) => title || description.split(/[;:(,]/)[0].trim();

// A message in a line; opened, all of it.
function messageLine(message) {
  const parts = [message["message.type"], place(message), speed(message["position.speed"]), volts(message["battery.voltage"])].filter(Boolean);
  const more = Object.keys(message).filter((name) => !USUAL.includes(name)).map((name) => `${name} ${show(message[name])}`).join(", ");
  return make("details", { class: "entry" }, make("summary", {}, ...spaced(make("time", {}, clock(message.timestamp)), make("span", {}, parts.join(" · ")), make("span", { class: "more quiet" }, more))),
    make("pre", {}, ...JSON.stringify(message, null, 1).split("\n").map((line) => make("div", {}, line))));
}

function fill(list, entries, line) {
  list.replaceChildren(...(entries.length ? entries.slice(0, KEPT).map(line) : [make("p", { class: "quiet none" }, NONE)]));
}

function add(list, line) {
  list.querySelector(".none")?.remove();
  list.prepend(line);
  list.children[KEPT]?.remove();
}

export class Detail {
  constructor(ident, app) {
    this.ident = ident;
    this.app = app;
    this.path = "/api/devices/" + encodeURIComponent(ident);
    for (const part of ["head", "values", "charts", "waiting", "sending", "life", "listing", "messages", "log"]) this[part] = make("div", { class: part });
    this.capture = new Capture(this.path, app.session.commands ? "web:" + app.session.user : null);
    this.rest = make("div", { hidden: true }, this.waiting, this.sending, this.life, this.charts, make("h3", {}, "Last values"), this.values,
      this.listing, this.capture.element, make("h3", {}, "Log"), this.log, make("h3", {}, "Messages"), this.messages);
    this.element = make("div", { class: "page", tabindex: -1 }, make("a", { class: "back", href: "#/" }, "‹ Devices"), this.head, this.rest);
    this.load();
  }

  close() { this.closed = true; this.app.hear(null, {}); this.app.map.follow(null, []); }

  async load() {
    try {
      const [device, track, log, messages, fields] = await Promise.all([ask(this.path), ask(this.path + "/track"), ask(this.path + "/log"), ask(this.path + "/messages"), this.app.fields()]);
      if (this.closed) return;
      this.device = device.body;
      this.fields = fields;
      this.track = track.body;
      this.newest = messages.body[0]?.["server.timestamp"] || 0;
      this.newestEntry = log.body[0]?.entry.timestamp || 0;
      fill(this.log, log.body, logLine);
      fill(this.messages, messages.body, messageLine);
      this.rest.hidden = false;
      this.draw();
      this.app.map.follow(this.device, this.track.geometry.coordinates);
      this.app.hear(this.device.ident, this.handlers());
      if (this.app.session.commands && !this.registry) {
        this.registry = new RegistryForm(this.device);
        this.listing.replaceChildren(make("h3", {}, "Registry"), this.registry.element);
      }
      await Promise.all([this.loadWaiting(), this.makeForm(), this.capture.load()]);
    } catch (error) {
      this.head.replaceChildren(make("p", { class: "fault" }, error.message));
    }
  }

  handlers() {
    return {
      message: (message) => { if (message["server.timestamp"] > this.newest) this.take(message); }, // the others are shown already
      log: (entry) => this.takeLog(entry),
      waiting: () => this.loadWaiting(),
      listing: () => this.registry?.changed(this.path),
      chunk: (chunk) => this.capture.take(chunk),
      captures: () => this.capture.load(),
      gateways: () => { if (this.capture.running.length) this.capture.load(); }, // one of them may have gone
      device: (row) => { if (row.ident === this.device.ident) { Object.assign(this.device, row); this.drawHead(); } },
    };
  }

  take(message) {
    this.newest = message["server.timestamp"];
    for (const [name, value] of Object.entries(message))
      if (message.timestamp >= (this.device.values[name]?.timestamp || 0)) this.device.values[name] = { value, timestamp: message.timestamp };
    const point = [message["position.longitude"], message["position.latitude"]], located = point[0] !== undefined && point[1] !== undefined;
    if (located) this.track.geometry.coordinates.push(point);
    this.track.properties.samples.push(message);
    add(this.messages, messageLine(message));
    this.draw();
    this.app.map.move(located ? message : null, this.track.geometry.coordinates);
  }

  takeLog(line) {
    const { topic, entry } = line;
    if (topic === "captures/refused") this.capture.refused(entry);
    if (entry.ident === this.ident) this.registry?.heard(line);
    if (entry.timestamp <= this.newestEntry) return; // it is shown already
    if (entry.ident ? entry.ident !== this.device.ident : entry.device_id !== this.device.id) return;
    add(this.log, logLine(line));
    if (this.mark && entry.meta?.web === this.mark) this.tellLife(line);
  }

  tellLife({ topic, entry }) {
    const step = topic.split("/").at(-1);
    const end = step !== "processed" ? step : entry.executed ? `answered: ${show(entry.response ?? "done")}` : `failed: ${entry.reason || ""}`;
    this.life.append(make("p", { class: step === "processed" ? entry.executed ? "good" : "bad" : "" }, `${entry.name} ${end}`));
  }

  draw() { this.drawHead(); this.drawValues(); this.drawCharts(); }

  drawHead() {
    const device = this.device;
    const state = device.connected ? make("span", { class: "good" }, "connected") : make("span", { class: "quiet" }, "disconnected");
    const tiles = [["Heard", ago(device.last_active)], ["Speed", speed(device["position.speed"])], ["Battery", volts(device["battery.voltage"])], ["Position", place(device)]];
    this.head.replaceChildren(make("h2", {}, device.name),
      make("p", { class: "about" }, state, make("span", { class: "quiet" }, [device.ident === device.name ? "" : device.ident, device.protocol].filter(Boolean).join(" · "))),
      ...(device.alarm ? [make("p", { class: isAlarm(device) ? "alarm" : "quiet" }, `${device.alarm}, ${ago(device.notable_at)}`)] : []),
      make("dl", { class: "tiles" }, ...tiles.filter(([, text]) => text).map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text)))));
  }

  drawValues() {
    const rows = Object.entries(this.device.values).sort(([a], [b]) => a < b ? -1 : 1).map(([name, { value, timestamp }]) => {
      const field = this.fields.get(name) || {};
      return make("tr", {}, make("th", { title: field.description }, name, make("small", {}, brief(field))), make("td", {}, valueText(name, value, field.unit)), make("td", { class: "age" }, age(timestamp)));
    });
    this.values.replaceChildren(make("table", {}, make("tbody", {}, ...rows)));
  }

  drawCharts() {
    const samples = this.track.properties.samples;
    this.charts.replaceChildren(...[chart("Speed", "km/h", samples, "position.speed"), chart("Battery", "V", samples, "battery.voltage")].filter(Boolean));
  }

  async loadWaiting() {
    const { body } = await ask(this.path + "/commands");
    const rows = body.map((command) => make("tr", {}, make("td", {}, command.name || "custom"), make("td", { class: "quiet" }, words(command.properties)),
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
    this.form = new CommandForm(body, this.device.name, async (command) => {
      const answer = await ask(this.path + "/commands", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(command) });
      this.mark = answer.body.mark;
      this.life.replaceChildren(make("p", {}, `${command.name} published`));
    });
    this.sending.replaceChildren(make("h3", {}, "Send a command"), this.form.element);
  }
}
