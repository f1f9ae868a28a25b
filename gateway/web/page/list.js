// The devices: only the rows that are seen are in the document, however many devices there are.
import { age, make } from "./dom.js";

const HEIGHT = 64;
const orders = {
  heard: (a, b) => (b.last_active || 0) - (a.last_active || 0),
  name: (a, b) => a.name.localeCompare(b.name),
  speed: (a, b) => (b["position.speed"] ?? -1) - (a["position.speed"] ?? -1),
  battery: (a, b) => (a["battery.voltage"] ?? 99) - (b["battery.voltage"] ?? 99),
  connected: (a, b) => (b.connected === true) - (a.connected === true) || orders.heard(a, b),
  alarm: (a, b) => (b.alarm ? b.notable_at : 0) - (a.alarm ? a.notable_at : 0) || orders.heard(a, b),
  waiting: (a, b) => b.waiting - a.waiting || orders.heard(a, b),
};

export const isAlarm = (device) => Boolean(device.alarm) && Date.now() / 1000 - device.notable_at < 600;

function row(device) {
  const numbers = [];
  if (device["position.speed"] !== undefined) numbers.push(`${Math.round(device["position.speed"])} km/h`);
  if (device["battery.voltage"] !== undefined) numbers.push(`${device["battery.voltage"].toFixed(2)} V`);
  const said = isAlarm(device) ? device.alarm : device.event || device.ident;
  return make("a", { class: "row", href: "#/device/" + encodeURIComponent(device.ident), "data-ident": device.ident },
    make("span", { class: "dot" + (device.connected ? " on" : ""), title: device.connected ? "connected" : "disconnected" }),
    make("span", { class: "name" }, device.name),
    make("span", { class: "right" }, device.last_active ? age(device.last_active) : "never"),
    make("span", { class: "said" + (isAlarm(device) ? " alarm" : "") }, (device.waiting ? `${device.waiting} waiting · ` : "") + said),
    make("span", { class: "numbers" }, numbers.join("  ")));
}

export class List {
  constructor(devices) {
    this.devices = devices;
    this.search = make("input", { type: "search", placeholder: "Search name or ident", "aria-label": "Search", oninput: () => this.draw() });
    this.order = make("select", { "aria-label": "Sort by", onchange: () => this.draw() },
      ...[["heard", "last seen"], ["connected", "connected"], ["name", "name"], ["speed", "speed"], ["battery", "battery"], ["alarm", "alarm"], ["waiting", "waiting"]]
        .map(([value, text]) => make("option", { value }, text)));
    this.space = make("div");
    this.scroll = make("div", { class: "scroll", tabindex: 0, "aria-label": "Devices", onscroll: () => this.drawRows() }, this.space);
    this.element = [make("div", { class: "tools" }, this.search, this.order), this.scroll];
  }

  draw() {
    const wanted = this.search.value.toLowerCase();
    this.shown = [...this.devices.values()].filter((device) =>
      !wanted || device.name.toLowerCase().includes(wanted) || device.ident.toLowerCase().includes(wanted));
    this.shown.sort(orders[this.order.value]);
    this.drawRows();
  }

  drawRows() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / HEIGHT) - 5);
    const last = Math.min(this.shown.length, first + Math.ceil((this.scroll.clientHeight || 800) / HEIGHT) + 10);
    const focused = document.activeElement?.dataset?.ident;
    const rows = this.shown.slice(first, last).map((device, i) => {
      const element = row(device);
      element.style.top = `${(first + i) * HEIGHT}px`;
      return element;
    });
    this.space.style.height = `${this.shown.length * HEIGHT}px`;
    if (this.shown.length === 0) rows.push(make("p", { class: "empty" }, this.devices.size ? "No device fits." : "No device has been heard yet."));
    this.space.replaceChildren(...rows);
    if (focused) rows.find((element) => element.dataset?.ident === focused)?.focus();
  }
}
