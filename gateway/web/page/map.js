// The map: Leaflet, with all devices on one canvas, near ones together; and a plain grid where there are no tiles.
import * as L from "./leaflet.esm.min.js";
import { isAlarm } from "./list.js";

const CELL = 52; // pixels within which devices are drawn as one

const Markers = L.Layer.extend({
  initialize(devices, open) { this.devices = devices; this.openDevice = open; this.drawn = []; this.trail = []; },
  onAdd(map) {
    this.canvas = L.DomUtil.create("canvas", "leaflet-zoom-hide", map.getPanes().overlayPane);
    map.on("moveend zoomend resize", this.draw, this);
    map.on("click", this.click, this);
    this.draw();
  },
  draw() {
    const map = this._map, size = map.getSize(), ratio = devicePixelRatio || 1;
    L.DomUtil.setPosition(this.canvas, map.containerPointToLayerPoint([0, 0]));
    this.canvas.width = size.x * ratio;
    this.canvas.height = size.y * ratio;
    this.canvas.style.width = `${size.x}px`;
    this.canvas.style.height = `${size.y}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement), color = (name) => style.getPropertyValue(name).trim();
    this.drawTrail(pen, color);
    this.drawn = this.cells(size);
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    for (const cell of this.drawn) this.drawCell(pen, cell, color);
  },
  cells(size) {
    const cells = new Map();
    for (const device of this.devices.values()) {
      const latitude = device["position.latitude"], longitude = device["position.longitude"];
      if (latitude === undefined || longitude === undefined) continue;
      const point = this._map.latLngToContainerPoint([latitude, longitude]);
      if (point.x < -CELL || point.y < -CELL || point.x > size.x + CELL || point.y > size.y + CELL) continue;
      const world = this._map.project([latitude, longitude]);
      const key = `${Math.floor(world.x / CELL)},${Math.floor(world.y / CELL)}`;
      const cell = cells.get(key);
      if (!cell) cells.set(key, { x: point.x, y: point.y, count: 1, device, alarm: isAlarm(device), on: device.connected });
      else { cell.count++; cell.alarm ||= isAlarm(device); cell.on ||= device.connected; }
    }
    return [...cells.values()];
  },
  drawCell(pen, cell, color) {
    cell.radius = cell.count === 1 ? 8 : Math.min(28, 13 + Math.log2(cell.count) * 2);
    pen.beginPath();
    pen.arc(cell.x, cell.y, cell.radius, 0, 2 * Math.PI);
    pen.fillStyle = cell.alarm ? color("--bad") : cell.on ? color("--accent") : color("--quiet");
    pen.fill();
    pen.lineWidth = 2;
    pen.strokeStyle = color("--panel");
    pen.stroke();
    pen.fillStyle = color("--panel");
    if (cell.count > 1) pen.fillText(String(cell.count), cell.x, cell.y + 4);
    else this.drawLabel(pen, cell, color);
  },
  drawLabel(pen, cell, color) {
    if (this.drawn.length > 60) return;
    const name = cell.device.name.slice(0, 24);
    pen.strokeStyle = color("--panel");
    pen.lineWidth = 3;
    pen.strokeText(name, cell.x, cell.y + 22);
    pen.fillStyle = color("--text");
    pen.fillText(name, cell.x, cell.y + 22);
  },
  drawTrail(pen, color) {
    pen.beginPath();
    for (const [longitude, latitude] of this.trail) {
      const point = this._map.latLngToContainerPoint([latitude, longitude]);
      pen.lineTo(point.x, point.y);
    }
    pen.strokeStyle = color("--accent");
    pen.lineWidth = 3;
    pen.stroke();
  },
  click(event) {
    const at = event.containerPoint;
    const cell = this.drawn.find((drawn) => Math.hypot(drawn.x - at.x, drawn.y - at.y) <= drawn.radius + 4);
    if (!cell) return;
    if (cell.count > 1 && this._map.getZoom() < this._map.getMaxZoom()) this._map.setView(event.latlng, this._map.getZoom() + 2);
    else this.openDevice(cell.device.ident);
  },
});

const Grid = L.GridLayer.extend({
  createTile() {
    const tile = document.createElement("canvas"), pen = tile.getContext("2d");
    tile.width = tile.height = 256;
    pen.strokeStyle = "rgba(128,128,128,.3)";
    pen.strokeRect(.5, .5, 256, 256);
    return tile;
  },
});

export class FleetMap {
  constructor(devices, session, open) {
    this.map = L.map("map", { attributionControl: false, maxZoom: 19, minZoom: 1, worldCopyJump: true }).setView([25, 10], 2);
    this.markers = new Markers(devices, open).addTo(this.map);
    this.devices = devices;
    if (session.tiles) this.addTiles(session);
    else this.showGrid("No map tiles are set: a plain grid.");
  }

  addTiles(session) {
    const tiles = L.tileLayer(session.tiles, { maxZoom: 19, keepBuffer: 1 }).addTo(this.map);
    const attribution = document.getElementById("attribution");
    attribution.textContent = session.attribution;
    let came = false;
    tiles.on("tileload", () => { came = true; });
    tiles.on("tileerror", () => {
      if (came || this.grid) return;
      tiles.remove();
      attribution.textContent = "";
      this.showGrid("The map tiles cannot be reached: a plain grid.");
    });
  }

  showGrid(text) {
    const note = document.getElementById("map-note");
    this.grid = new Grid().addTo(this.map);
    note.textContent = text;
    note.hidden = false;
    setTimeout(() => { note.hidden = true; }, 10000);
  }

  // Once, when the first positions are there.
  fit() {
    const places = [...this.devices.values()].filter((device) => device["position.latitude"] !== undefined)
      .map((device) => [device["position.latitude"], device["position.longitude"]]);
    if (this.fitted || places.length === 0) return;
    this.fitted = true;
    this.map.fitBounds(L.latLngBounds(places), { maxZoom: 14, padding: [50, 50], animate: false });
  }

  draw() { this.fit(); this.markers.draw(); }

  follow(device, trail) {
    this.markers.trail = trail;
    if (device && device["position.latitude"] !== undefined)
      this.map.setView([device["position.latitude"], device["position.longitude"]], Math.max(this.map.getZoom(), 13), { animate: false });
    this.markers.draw();
  }
}
