// A device in the broker's registry: its name, id and type are given, changed and taken out here.
import { ask } from "./api.js";
import { make } from "./dom.js";

const FIELDS = [["ident", "Ident, usually the IMEI", "text"], ["name", "Name", "text"], ["id", "Id, which its topics have (optional)", "number"], ["type_id", "Type, a number of yours (optional)", "number"]];
const JSON_HEADERS = { "Content-Type": "application/json" };

export class RegistryForm {
  // device: as the API has it, or null when it is new; said: is called with its ident once the broker has it.
  constructor(device, said = () => {}) {
    this.device = device;
    this.said = said;
    this.inputs = new Map();
    this.faults = new Map();
    const labels = FIELDS.filter(([key]) => !device || key !== "ident").map(([key, label, type]) => {
      const input = make("input", { name: key, type, step: 1 }), fault = make("p", { class: "fault" });
      this.inputs.set(key, input);
      this.faults.set(key, fault);
      return make("label", {}, label, input, fault);
    });
    this.state = make("p", { class: "quiet" });
    this.outcome = make("p", { role: "alert" });
    this.out = make("button", { type: "button", onclick: () => this.remove() }, "Take it out");
    this.element = make("form", { class: "registry", novalidate: true, onsubmit: (event) => { event.preventDefault(); this.save(); } },
      this.state, make("div", { class: "fields" }, ...labels), this.outcome, make("button", { class: "main" }, device ? "Save" : "Add"), this.out);
    this.fill();
  }

  fill() {
    const { registry, name, ident, id } = this.device || {};
    const shown = registry || { name: name === ident ? "" : name, id };
    const typing = [...this.inputs.values()].includes(document.activeElement); // what somebody writes is his
    for (const [key, input] of this.inputs) if (key !== "ident" && !typing) input.value = shown[key] ?? "";
    this.state.textContent = !this.device ? "All gateways on the broker take it from there." :
      registry ? "It is in the broker's registry." : "It is not in the broker's registry: known by the configuration, or a stranger.";
    this.out.hidden = !registry;
  }

  // Somebody has changed it.
  async changed(path) {
    this.device.registry = (await ask(path)).body.registry;
    this.fill();
  }

  // What a gateway says to it.
  heard({ topic, entry }) {
    const word = topic.split("/").at(-1);
    if (topic === "registry/error") this.tell(`${entry.instance}: ${entry.error_text}`, "bad");
    else if (["created", "updated", "deleted"].includes(word)) this.tell(`The gateway says: ${word}.`, "good");
  }

  tell(text, kind = "") { this.outcome.className = kind; this.outcome.textContent = text; }

  value(key) {
    const { value, type } = this.inputs.get(key);
    return value === "" ? undefined : type === "number" ? Number(value) : value;
  }

  async save() {
    const ident = this.device?.ident ?? this.value("ident");
    for (const fault of this.faults.values()) fault.textContent = "";
    this.tell("");
    if (!ident) { this.faults.get("ident").textContent = "is needed"; return; }
    const body = JSON.stringify({ name: this.value("name"), id: this.value("id"), type_id: this.value("type_id") });
    await this.publish(ident, { method: "PUT", headers: JSON_HEADERS, body });
  }

  remove() { return this.publish(this.device.ident, { method: "DELETE" }); }

  async publish(ident, options) {
    try {
      await ask("/api/registry/" + encodeURIComponent(ident), options);
      this.tell("The broker has it.");
      this.said(ident);
    } catch (error) {
      const rest = (error.faults || []).filter(({ path, problem }) => {
        const place = this.faults.get(path.replace(/^\$\.?/, ""));
        if (place) place.textContent = problem;
        return !place;
      });
      this.tell(error.faults ? rest.map(({ path, problem }) => `${path} ${problem}`).join("; ") : error.message, "bad");
    }
  }
}

// For a device that no gateway has heard yet.
export class NewDevice {
  constructor() {
    this.form = new RegistryForm(null, (ident) => this.form.tell(`The broker has it. ${ident} comes into the list when it is first heard.`, "good"));
    this.element = make("div", { class: "page", tabindex: -1 }, make("a", { class: "back", href: "#/" }, "‹ Devices"), make("h2", {}, "Add a device"), this.form.element);
  }
}
