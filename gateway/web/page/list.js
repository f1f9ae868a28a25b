// The devices: only the rows that are seen are in the document, however many devices there are.
import { age, ago, make, put, speed, volts } from "./dom.js";

const HEIGHT = 60;    // of a row, pixels
const CALM = 1000;    // milliseconds between two sortings
const byName = new Intl.Collator(undefined, { numeric: true }).compare;
const orders = {
  heard: (a, b) => (b.last_active || 0) - (a.last_active || 0),
  name: (a, b) => byName(a.name, b.name),
  speed: (a, b) => (b["position.speed"] ?? -1) - (a["position.speed"] ?? -1),
  battery: (a, b) => (a["battery.voltage"] ?? 99) - (b["battery.voltage"] ?? 99),
  connected: (a, b) => (b.connected === true) - (a.connected === true) || orders.heard(a, b),
  alarm: (a, b) => (b.alarm ? b.notable_at : 0) - (a.alarm ? a.notable_at : 0) || orders.heard(a, b),
  waiting: (a, b) => b.waiting - a.waiting || orders.heard(a, b),
};
const titles = { heard: "last seen", connected: "connected", name: "name", speed: "speed", battery: "battery", alarm: "alarm", waiting: "waiting" };

export const isAlarm = (device) => Boolean(device.alarm) && Date.now() / 1000 - device.notable_at < 600;

function makeRow(ident) {
  const parts = {};
  for (const name of ["dot", "name", "heard", "said", "speed", "battery"]) parts[name] = make("span", { class: name });
  const row = make("a", { class: "row", href: "#/device/" + encodeURIComponent(ident), "data-ident": ident, tabindex: -1 }, ...Object.values(parts));
  return Object.assign(row, { parts });
}

function said(device) {
  if (isAlarm(device)) return device.alarm;
  return [device.waiting ? `${device.waiting} waiting` : "", device.name === device.ident ? "" : device.ident, device.event || ""].filter(Boolean).join(" · ");
}

function fill({ parts }, device) {
  const state = device.connected ? "connected" : device.connected === false ? "disconnected" : "not heard yet";
  parts.dot.classList.toggle("on", device.connected === true);
  if (parts.dot.title !== state) parts.dot.title = state;
  parts.said.classList.toggle("alarm", isAlarm(device));
  put(parts.name, device.name);
  put(parts.heard, device.last_active ? age(device.last_active) : "never");
  put(parts.said, said(device));
  put(parts.speed, speed(device["position.speed"]));
  put(parts.battery, volts(device["battery.voltage"]));
  if (!parts.heard.title.endsWith(parts.heard.textContent)) parts.heard.title = `heard ${ago(device.last_active)}`;
}

export class List {
  constructor(devices) {
    this.devices = devices;
    this.rows = new Map();
    this.shown = []; // idents, in order
    this.search = make("input", { type: "search", placeholder: "Search name or ident", "aria-label": "Search", oninput: () => this.sort() });
    this.order = make("select", { "aria-label": "Sort by", title: "Sort by", onchange: () => this.sort() },
      ...Object.entries(titles).map(([value, text]) => make("option", { value }, text)));
    this.space = make("div");
    this.empty = make("p", { class: "empty", hidden: true });
    this.scroll = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Devices", onscroll: () => this.drawRows(), onkeydown: (event) => this.onKey(event) }, this.empty, this.space);
    this.add = make("a", { href: "#/add", title: "Add a device to the registry", hidden: true }, "Add");
    this.element = [make("div", { class: "tools" }, this.search, this.order, this.add), this.scroll];
  }

  // What is being pointed at, or is focused, stays where it is.
  isHeld() {
    return this.scroll.matches(":focus-within") || (matchMedia("(hover: hover)").matches && this.scroll.matches(":hover"));
  }

  draw() {
    const another = this.sortedOf !== this.devices.size;
    if (another || (!this.isHeld() && performance.now() - this.sortedAt > CALM)) this.sort();
    else this.drawRows();
  }

  sort() {
    const wanted = this.search.value.toLowerCase();
    const found = [...this.devices.values()].filter((device) =>
      !wanted || device.name.toLowerCase().includes(wanted) || device.ident.toLowerCase().includes(wanted));
    this.shown = found.sort(orders[this.order.value]).map((device) => device.ident);
    this.sortedAt = performance.now();
    this.sortedOf = this.devices.size;
    this.drawRows();
  }

  drawRows() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / HEIGHT) - 5);
    const last = Math.min(this.shown.length, first + Math.ceil((this.scroll.clientHeight || 800) / HEIGHT) + 10);
    const before = this.rows;
    this.rows = new Map();
    for (let i = first; i < last; i++) this.drawRow(i, before);
    for (const row of before.values()) row.remove();
    this.space.style.height = `${this.shown.length * HEIGHT}px`;
    this.empty.hidden = this.shown.length > 0;
    put(this.empty, this.devices.size ? "No device fits." : "No device has been heard yet.");
  }

  // Rows are kept as they are: one that is made anew under the pointer could not be clicked.
  drawRow(i, before) {
    const ident = this.shown[i], device = this.devices.get(ident), row = before.get(ident) || makeRow(ident);
    before.delete(ident);
    if (!device) return;
    fill(row, device);
    row.style.top = `${i * HEIGHT}px`;
    if (!row.isConnected) this.space.append(row);
    this.rows.set(ident, row);
  }

  onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || this.shown.length === 0) return;
    event.preventDefault();
    const now = this.shown.indexOf(document.activeElement?.dataset?.ident);
    const next = Math.min(this.shown.length - 1, Math.max(0, now + step)), top = next * HEIGHT;
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    if (top + HEIGHT > this.scroll.scrollTop + this.scroll.clientHeight) this.scroll.scrollTop = top + HEIGHT - this.scroll.clientHeight;
    this.drawRows();
    this.rows.get(this.shown[next])?.focus();
  }
}
