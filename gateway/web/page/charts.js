// Plots of a value over time, on a canvas.
import { clock, make } from "./dom.js";

export function chart(title, unit, samples, key) {
  const points = samples.filter((sample) => sample[key] !== undefined).map((sample) => [sample.timestamp, sample[key]]);
  if (points.length < 2) return null;
  const values = points.map((point) => point[1]), low = Math.min(...values), high = Math.max(...values);
  const range = low === high ? `${low} ${unit}` : `${low} to ${high} ${unit}`;
  const canvas = make("canvas", { class: "chart", role: "img", "aria-label": `${title}: ${range}` });
  requestAnimationFrame(() => draw(canvas, points, low, high));
  return make("figure", {}, make("figcaption", {}, make("strong", {}, title), make("span", {}, range)), canvas,
    make("div", { class: "axis" }, make("span", {}, clock(points[0][0])), make("span", {}, clock(points.at(-1)[0]))));
}

function draw(canvas, points, low, high) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  const pen = canvas.getContext("2d"), first = points[0][0], span = points.at(-1)[0] - first || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  pen.scale(ratio, ratio);
  pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (const [time, value] of points)
    pen.lineTo((time - first) / span * (width - 4) + 2, high === low ? height / 2 : height - 4 - (value - low) / (high - low) * (height - 8));
  pen.stroke();
}
