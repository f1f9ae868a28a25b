// The page: what is shown where, and what comes from the server.
import { ask, listen } from "./api.js";
import { Detail } from "./detail.js";
import { put, visible } from "./dom.js";
import { Gateways } from "./gateways.js";
import { List } from "./list.js";
import { FleetMap } from "./map.js";
import { NewDevice } from "./registry.js";

const devices = new Map();
const app = { devices, hear, fields: () => fieldsOnce ||= ask("/api/fields").then(({ body }) => new Map(body.map((field) => [field.name, field]))) };
let fieldsOnce, view, list, stream, drawing = false, pause = 0, cutOff = false;
let wanted = { ident: null, handlers: {} }; // what the view wants to hear besides

function tellStatus() {
  let connected = 0;
  for (const device of devices.values()) connected += device.connected === true;
  document.getElementById("status").textContent = `${connected} of ${devices.size} connected`;
  const cut = document.getElementById("cut");
  const why = cutOff ? "Cut off from the server" : !app.session.broker_up ? "The broker is not connected" : app.session.gateways_online === 0 ? "No gateway is online" : null;
  cut.hidden = !why;
  if (why) put(cut, `${why}: what is shown may be old.${cutOff ? " Trying again." : ""}`);
}

// With many devices drawing takes a while: then it comes less often.
function drawSoon() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => requestAnimationFrame(() => {
    const began = performance.now();
    drawing = false;
    if (view === list) list.draw();
    app.map.draw();
    tellStatus();
    pause = Math.min(3000, (performance.now() - began) * 5);
  }), pause);
}

const always = {
  device: (device) => { devices.set(device.ident, device); drawSoon(); },
  gone: ({ ident }) => { devices.delete(ident); drawSoon(); },
  broker: ({ up }) => { app.session.broker_up = up; tellStatus(); },
  gateways: ({ online }) => { app.session.gateways_online = online; tellStatus(); if (view instanceof Gateways) view.load(); },
  captures: () => { if (view instanceof Gateways) view.load(); },
  reset: () => { stream.stop(); setTimeout(again, 1000 + Math.random() * 3000); }, // not all pages at once
};

function listenFrom(event) {
  const handlers = {};
  for (const type of [...Object.keys(always), "message", "log", "waiting", "listing", "chunk"])
    handlers[type] = (data) => { always[type]?.(data); wanted.handlers[type]?.(data); };
  stream?.stop();
  stream = listen(event, wanted.ident, handlers, (cut) => { cutOff = cut; tellStatus(); });
}

// One stream for all: a browser has few connections to a server. ident: of the device, or null.
function hear(ident, handlers) {
  wanted = { ident, handlers };
  listenFrom(stream.last());
}

async function start() {
  app.session = (await ask("/api/session")).body;
  list.add.hidden = !app.session.commands;
  const { body, event } = await ask("/api/devices");
  devices.clear();
  for (const device of body) devices.set(device.ident, device);
  app.map ||= new FleetMap(devices, app.session, (ident) => { location.hash = "#/device/" + encodeURIComponent(ident); });
  if (!devices.has(wanted.ident)) wanted = { ident: null, handlers: {} };
  listenFrom(event);
  drawSoon();
}

function again() {
  start().then(() => view.load?.()).catch(() => { cutOff = true; tellStatus(); setTimeout(again, 3000); });
}

function makeView(kind, ident) {
  if (kind === "device") return new Detail(decodeURIComponent(ident || ""), app);
  if (kind === "add") return new NewDevice();
  return kind === "gateways" ? new Gateways() : list;
}

function route() {
  const [, kind, ident] = location.hash.split("/");
  view?.close?.();
  view = makeView(kind, ident);
  const main = document.querySelector("main");
  main.className = { device: "device", gateways: kind, add: "gateways" }[kind] || "";
  main.scrollTop = 0;
  document.getElementById("side").replaceChildren(...[view.element].flat());
  app.map.resize();
  for (const [id, current] of [["nav-devices", kind !== "gateways"], ["nav-gateways", kind === "gateways"]])
    current ? document.getElementById(id).setAttribute("aria-current", "page") : document.getElementById(id).removeAttribute("aria-current");
  document.title = kind === "device" ? visible(`${devices.get(view.ident)?.name || view.ident} – trackbus`) : "trackbus";
  drawSoon();
}

// Keys that work everywhere: / searches, Escape goes back to the list.
function onKey(event) {
  const typing = event.target.closest?.("input, select, textarea");
  if (event.key === "Escape" && (view !== list || typing)) {
    typing?.blur();
    location.hash = "#/";
  } else if (event.key === "/" && !typing) {
    location.hash = "#/";
    event.preventDefault();
    setTimeout(() => list.search.focus());
  }
}

const logout = document.getElementById("logout");
logout.addEventListener("click", () => fetch("/api/logout", { method: "POST" }).then(() => location.reload()));
list = new List(devices);
start().then(() => {
  logout.hidden = !app.session.user;
  addEventListener("hashchange", route);
  addEventListener("keydown", onKey);
  route();
  setInterval(drawSoon, 5000);
}).catch((error) => {
  const cut = document.getElementById("cut");
  cut.hidden = false;
  cut.textContent = error.message;
});
