// Elements with text: what devices and people say is only ever textContent, so that nothing of it is markup.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null).map((child) => child instanceof Node ? child : visible(String(child))));
  return element;
}

// With a blank between them: what is copied, or read out, is not one word.
export const spaced = (...parts) => parts.filter((part) => part != null).flatMap((part, i) => i ? [" ", part] : [part]);

// Marks that change the direction of writing would let a name rearrange the line that it stands in.
export function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202f\u2060-\u2069\ufeff]/g, "\ufffd");
}

// Changes the text of an element where it is another one.
export function put(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

export function age(seconds) {
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  if (!seconds) return "";
  if (passed < 60) return `${Math.round(passed)} s`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min`;
  if (passed < 86400) return `${Math.floor(passed / 3600)} h`;
  return `${Math.floor(passed / 86400)} d`;
}

export const ago = (seconds) => seconds ? `${age(seconds)} ago` : "never";

// The time, and the day where it is not today.
export function clock(seconds) {
  if (!seconds) return "";
  const date = new Date(seconds * 1000), time = date.toLocaleTimeString();
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString()} ${time}`;
}

export const show = (value) => typeof value === "string" ? value : JSON.stringify(value);
export const speed = (value) => value === undefined ? "" : `${Math.round(value)} km/h`;
export const volts = (value) => value === undefined ? "" : `${value.toFixed(2)} V`;
export const words = (properties) => Object.entries(properties || {}).map(([name, value]) => `${name} ${show(value)}`).join(", ");
