// The map: Leaflet, with all devices on one canvas, near ones together; and a plain grid where there are no tiles.
import * as L from "./leaflet.esm.min.js";
import { visible } from "./dom.js";
import { isAlarm } from "./list.js";

const CELL = 56;     // pixels within which devices are drawn as one
const CLOSEST = 15;  // how near the map goes by itself
const has = (device) => device["position.latitude"] !== undefined && device["position.longitude"] !== undefined;
const spot = (device) => [device["position.latitude"], device["position.longitude"]];

// Devices that are near each other, on the screen, as one.
class Cluster {
  constructor() { this.x = this.y = this.count = 0; this.alarm = this.on = this.chosen = false; }

  add(x, y, device, chosen) {
    this.x = (this.x * this.count + x) / (this.count + 1);
    this.y = (this.y * this.count + y) / (this.count + 1);
    this.count++;
    this.device = device;
    this.alarm ||= isAlarm(device);
    this.on ||= device.connected === true;
    this.chosen ||= chosen;
  }

  take(other) {
    const count = this.count + other.count;
    this.x = (this.x * this.count + other.x * other.count) / count;
    this.y = (this.y * this.count + other.y * other.count) / count;
    this.count = count;
    this.alarm ||= other.alarm;
    this.on ||= other.on;
    this.chosen ||= other.chosen;
  }

  get radius() { return this.count === 1 ? 8 : Math.min(28, 12 + Math.log2(this.count) * 2); }
  overlaps(other) { return Math.hypot(this.x - other.x, this.y - other.y) < this.radius + other.radius + 2; }
}

// Those that would be drawn over each other become one. The device that is looked at stands alone.
function apart(clusters) {
  const drawn = [];
  for (const cluster of clusters.sort((a, b) => b.count - a.count)) {
    const under = cluster.chosen ? null : drawn.find((other) => !other.chosen && other.overlaps(cluster));
    if (under) under.take(cluster);
    else drawn.push(cluster);
  }
  return drawn;
}

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
    this.drawn = apart(this.clusters(size));
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    for (const cluster of this.drawn) this.drawCluster(pen, cluster, color);
    this.drawLabels(pen, color);
  },
  clusters(size) {
    const cells = new Map(), map = this._map, scale = 256 * 2 ** map.getZoom(), origin = map.project(map.containerPointToLatLng([0, 0]));
    for (const device of this.devices.values()) {
      if (!has(device)) continue;
      // What map.project() does, without making two objects for each of many devices.
      const sine = Math.sin(Math.max(-85.0511, Math.min(85.0511, device["position.latitude"])) * Math.PI / 180);
      const worldX = (device["position.longitude"] / 360 + .5) * scale, worldY = (.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)) * scale;
      const x = worldX - origin.x, y = worldY - origin.y;
      if (x < -CELL || y < -CELL || x > size.x + CELL || y > size.y + CELL) continue;
      const chosen = device.ident === this.chosen, key = chosen ? "chosen" : Math.floor(worldX / CELL) * 1e8 + Math.floor(worldY / CELL);
      let cell = cells.get(key);
      if (!cell) cells.set(key, cell = new Cluster());
      cell.add(x, y, device, chosen);
    }
    return [...cells.values()];
  },
  drawCluster(pen, cluster, color) {
    pen.beginPath();
    pen.arc(cluster.x, cluster.y, cluster.radius, 0, 2 * Math.PI);
    pen.fillStyle = cluster.alarm ? color("--bad") : cluster.on ? color("--accent") : color("--quiet");
    pen.fill();
    pen.lineWidth = 2;
    pen.strokeStyle = color("--panel");
    pen.stroke();
    pen.fillStyle = color("--panel");
    if (cluster.count > 1) pen.fillText(String(cluster.count), cluster.x, cluster.y + 4);
    if (!cluster.chosen) return;
    pen.beginPath();
    pen.arc(cluster.x, cluster.y, cluster.radius + 5, 0, 2 * Math.PI);
    pen.strokeStyle = color("--accent");
    pen.stroke();
  },
  // A name is written where it covers nothing else.
  drawLabels(pen, color) {
    const taken = this.drawn.map(({ x, y, radius }) => [x - radius, y - radius, x + radius, y + radius]);
    const free = (box) => taken.every((other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
    for (const { x, y, count, chosen, device } of [...this.drawn].sort((a, b) => b.chosen - a.chosen)) {
      if (count > 1 || taken.length > 300) continue;
      const name = visible(device.name.length > 24 ? `${device.name.slice(0, 23)}…` : device.name);
      const half = pen.measureText(name).width / 2, below = y + (chosen ? 28 : 22), box = [x - half, below - 11, x + half, below + 3];
      if (!free(box)) continue;
      taken.push(box);
      pen.strokeStyle = color("--panel");
      pen.lineWidth = 3;
      pen.strokeText(name, x, below);
      pen.fillStyle = color("--text");
      pen.fillText(name, x, below);
    }
  },
  drawTrail(pen, color) {
    pen.beginPath();
    for (const [longitude, latitude] of this.trail) {
      const point = this._map.latLngToContainerPoint([latitude, longitude]);
      pen.lineTo(point.x, point.y);
    }
    pen.strokeStyle = color("--accent");
    pen.globalAlpha = .6;
    pen.lineWidth = 3;
    pen.lineJoin = "round";
    pen.stroke();
    pen.globalAlpha = 1;
  },
  click(event) {
    const at = event.containerPoint;
    const cluster = this.drawn.find((drawn) => Math.hypot(drawn.x - at.x, drawn.y - at.y) <= drawn.radius + 4);
    if (!cluster) return;
    if (cluster.count > 1 && this._map.getZoom() < this._map.getMaxZoom()) this._map.setView(event.latlng, this._map.getZoom() + 2);
    else this.openDevice(cluster.device.ident);
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
      this.showGrid("The map tiles cannot be reached: a plain grid.");
    });
  }

  // Said in the corner, where it covers little.
  showGrid(text) {
    this.grid = new Grid().addTo(this.map);
    document.getElementById("attribution").textContent = text;
  }

  // Its place on the page may be another one now.
  resize() { this.map.invalidateSize({ animate: false }); }

  // Once, when the first positions are there.
  fit() {
    const places = [...this.devices.values()].filter(has).map(spot);
    if (this.fitted || places.length === 0) return;
    this.fitted = true;
    this.map.fitBounds(L.latLngBounds(places), { maxZoom: 14, padding: [50, 50], animate: false });
  }

  draw() {
    if (!this.fitted) this.fit();
    this.markers.draw();
  }

  // Shows a device and where it was; without one, all of them alike.
  follow(device, trail) {
    this.markers.trail = trail;
    this.markers.chosen = device?.ident;
    const places = trail.map(([longitude, latitude]) => [latitude, longitude]);
    if (device && has(device)) places.push(spot(device));
    if (places.length > 0) {
      this.fitted = true;
      this.map.fitBounds(L.latLngBounds(places), { maxZoom: CLOSEST, padding: [60, 60], animate: false });
    }
    this.markers.draw();
  }

  // It has moved: the map moves only when the device would leave it.
  move(device, trail) {
    this.markers.trail = trail;
    if (device && !this.map.getBounds().pad(-.1).contains(spot(device))) this.map.panTo(spot(device), { animate: false });
    this.markers.draw();
  }
}
