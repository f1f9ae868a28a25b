// Plots of a value over time, on a canvas.
import { make } from "./dom.js";

export function chart(title, unit, samples, key) {
  const points = samples.filter((sample) => sample[key] !== undefined).map((sample) => [sample.timestamp, sample[key]]);
  if (points.length < 2) return null;
  const values = points.map((point) => point[1]), low = Math.min(...values), high = Math.max(...values);
  const canvas = make("canvas", { class: "chart", role: "img", "aria-label": `${title}: ${low} to ${high} ${unit}` });
  requestAnimationFrame(() => draw(canvas, points, low, high));
  return make("div", {}, make("h3", {}, `${title}: ${low} to ${high} ${unit}`), canvas);
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
    pen.lineTo((time - first) / span * (width - 4) + 2, height - 4 - (value - low) / (high - low || 1) * (height - 8));
  pen.stroke();
}
