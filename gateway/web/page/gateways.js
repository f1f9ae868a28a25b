// The gateways: what each says of itself.
import { ask } from "./api.js";
import { captureText } from "./capture.js";
import { age, clock, make, spaced } from "./dom.js";

const size = (bytes) => bytes === undefined ? "" : bytes < 1024 ? `${bytes} B` : bytes < 1 << 20 ? `${Math.round(bytes / 1024)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
const of = (capture) => ["device", "channel", "address"].filter((kind) => capture[kind]).map((kind) => `${kind} ${capture[kind]}`).join();
const sum = (metrics, key) => (metrics?.channels || []).reduce((total, channel) => total + (channel[key] || 0), 0);

export class Gateways {
  constructor() {
    this.cards = make("div");
    this.captures = make("div");
    this.strangers = make("div");
    this.element = make("div", { class: "page" }, make("h2", {}, "Gateways"), this.cards, make("h3", {}, "Captures"), this.captures, make("h3", {}, "Bytes that made no sense, of no known device"), this.strangers);
    this.before = new Map();
    this.load();
  }

  close() { this.closed = true; }

  async load() {
    const [gateways, log, captures] = await Promise.all([ask("/api/gateways"), ask("/api/log"), ask("/api/captures")]);
    if (this.closed) return;
    this.cards.replaceChildren(...gateways.body.gateways.map((gateway) => this.card(gateway)));
    if (gateways.body.gateways.length === 0) this.cards.append(make("p", { class: "empty" }, "No gateway is on this broker."));
    const running = captures.body.map((capture) => make("div", { class: "entry" }, ...spaced(make("span", {}, of(capture)), make("span", { class: "quiet" }, captureText(capture)))));
    this.captures.replaceChildren(...(running.length ? running : [make("p", { class: "quiet" }, "No capture runs.")]));
    const lines = log.body.filter(({ entry }) => entry.packet).slice(0, 20).map(({ entry }) =>
      make("div", { class: "entry" }, ...spaced(make("time", {}, clock(entry.timestamp)), make("span", {}, entry.source || ""), make("span", { class: "quiet" }, entry.error_text || entry.verdict || ""),
        make("div", { class: "bytes" }, entry.packet.match(/../g)?.join(" ") || ""))));
    this.strangers.replaceChildren(...(lines.length ? lines : [make("p", { class: "quiet" }, "None.")]));
  }

  rate({ instance, metrics }) {
    const now = { at: metrics?.timestamp, messages: sum(metrics, "messages") }, before = this.before.get(instance);
    if (!before || before.at !== now.at) this.before.set(instance, { ...now, rate: before && now.at > before.at ? (now.messages - before.messages) / (now.at - before.at) : undefined });
    const rate = this.before.get(instance).rate;
    return rate === undefined ? "" : `${rate.toFixed(1)} messages/s`;
  }

  // Numbers of one that is offline are not those of now: only when it said the last ones.
  rows(gateway) {
    const { online, state, metrics } = gateway;
    if (!online || !metrics) return [["last heard", online ? "" : clock(metrics?.timestamp)], ["version", state?.version]];
    const { devices, devices_connected: connected } = metrics;
    return [["version", state?.version], ["up", state?.started ? age(state.started) : ""], ["devices", devices === undefined ? "" : `${connected} of ${devices} connected, over TCP or UDP`],
      ["TCP connections", sum(metrics, "connections")], ["rate", this.rate(gateway)], ["messages", sum(metrics, "messages")],
      ["broker", metrics.broker_up ? `connected, ${counted(metrics.broker_reconnections ?? 0, "reconnection")}` : "not connected"],
      ["outbox", `${counted(metrics.outbox_messages ?? 0, "message")}, oldest ${Math.round(metrics.outbox_oldest_seconds ?? 0)} s`], ["disk", size(metrics.store_bytes) + (metrics.store_full ? ", full" : "")],
      ["set aside", metrics.set_aside_messages], ["commands waiting", metrics.commands_waiting], ["memory", size(metrics.resident_memory_bytes)],
      ["longest pause", metrics.loop_lag_seconds === undefined ? "" : `${Math.round(metrics.loop_lag_seconds * 1000)} ms in the last minute`]];
  }

  card(gateway) {
    const { instance, online, metrics } = gateway;
    const shown = this.rows(gateway).filter(([, value]) => value !== undefined && value !== "" && value !== null);
    return make("section", { class: "card" }, make("h2", {}, instance, make("small", { class: online ? "good" : "bad" }, online ? "online" : "offline")),
      make("table", {}, make("tbody", {}, ...shown.map(([name, value]) => make("tr", {}, make("th", {}, name), make("td", {}, String(value)))))), online ? this.channels(metrics) : null);
  }

  channels(metrics) {
    if (!metrics?.channels?.length) return null;
    const titles = ["channel", "TCP", "messages", "junk"], number = { class: "number" };
    return make("table", { class: "channels" }, make("thead", {}, make("tr", {}, ...titles.map((title, i) => make("th", i ? number : {}, title)))),
      make("tbody", {}, ...metrics.channels.map((channel) => make("tr", {}, make("td", {}, channel.name), make("td", number, channel.connections), make("td", number, channel.messages), make("td", number, size(channel.junk_bytes))))));
  }
}
