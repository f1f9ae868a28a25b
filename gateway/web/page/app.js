// The page: what is shown where, and what comes from the server.
import { ask, listen } from "./api.js";
import { Detail } from "./detail.js";
import { visible } from "./dom.js";
import { Gateways } from "./gateways.js";
import { List } from "./list.js";
import { FleetMap } from "./map.js";

const devices = new Map();
const app = { devices, fields: () => fieldsOnce ||= ask("/api/fields").then(({ body }) => new Map(body.map((field) => [field.name, field]))) };
let fieldsOnce, view, list, drawing = false, cutOff = false;

function tellStatus() {
  const connected = [...devices.values()].filter((device) => device.connected).length;
  document.getElementById("status").textContent = `${devices.size} devices, ${connected} connected`;
  const cut = document.getElementById("cut");
  cut.hidden = !cutOff && app.session.broker_up;
  cut.textContent = cutOff ? "Cut off from the server: what is shown may be old. Trying again." : "The broker is not connected: what is shown may be old.";
}

function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (view === list) list.draw();
    app.map.draw();
    tellStatus();
  });
}

async function loadAll() {
  app.session = (await ask("/api/session")).body;
  const { body, event } = await ask("/api/devices");
  devices.clear();
  for (const device of body) devices.set(device.ident, device);
  return event;
}

async function start() {
  const event = await loadAll();
  app.map ||= new FleetMap(devices, app.session, (ident) => { location.hash = "#/device/" + encodeURIComponent(ident); });
  app.stop?.();
  app.stop = listen(event, null, {
    device: (device) => { devices.set(device.ident, device); drawSoon(); },
    gone: ({ ident }) => { devices.delete(ident); drawSoon(); },
    broker: ({ up }) => { app.session.broker_up = up; tellStatus(); },
    gateways: () => { if (view instanceof Gateways) view.load(); },
    reset: again,
  }, (cut) => { cutOff = cut; tellStatus(); });
  drawSoon();
}

function again() {
  start().catch(() => { cutOff = true; tellStatus(); setTimeout(again, 3000); });
}

function route() {
  const [, kind, ident] = location.hash.split("/");
  view?.close?.();
  if (kind === "device") view = new Detail(decodeURIComponent(ident || ""), app);
  else if (kind === "gateways") view = new Gateways();
  else view = list;
  document.getElementById("side").replaceChildren(...[view.element].flat());
  for (const [id, current] of [["nav-devices", kind !== "gateways"], ["nav-gateways", kind === "gateways"]])
    document.getElementById(id).toggleAttribute("aria-current", current);
  document.title = kind === "device" ? visible(`${devices.get(view.ident)?.name || view.ident} – trackbus`) : "trackbus";
  drawSoon();
}

const logout = document.getElementById("logout");
logout.addEventListener("click", () => fetch("/api/logout", { method: "POST" }).then(() => location.reload()));
list = new List(devices);
start().then(() => {
  logout.hidden = !app.session.user;
  addEventListener("hashchange", route);
  route();
  setInterval(drawSoon, 5000);
}).catch((error) => {
  const cut = document.getElementById("cut");
  cut.hidden = false;
  cut.textContent = error.message;
});
