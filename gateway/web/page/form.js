// A form for a command, made from its schema.
import { make, show } from "./dom.js";

// Whether the condition of a schema (if) holds for what is filled in.
function holds(condition, values) {
  return Object.entries(condition.properties || {}).every(([name, rule]) =>
    "const" in rule ? values[name] === rule.const : rule.enum ? rule.enum.includes(values[name]) : true);
}

// The properties that are asked for now.
function properties(schema, values) {
  const all = { ...schema.properties }, required = new Set(schema.required);
  for (const part of schema.allOf || []) {
    const branch = !part.if || holds(part.if, values) ? part.then || part : part.else || {};
    for (const [name, rule] of Object.entries(branch.properties || {})) all[name] = { ...all[name], ...rule };
    for (const name of branch.required || []) required.add(name);
  }
  return { all, required };
}

function read(input, rule) {
  if (input.value === "") return undefined;
  if (rule.enum) return rule.enum[Number(input.value)];
  const types = [rule.type].flat();
  if (types.includes("boolean")) return input.value === "true";
  return types.includes("integer") || types.includes("number") ? Number(input.value) : input.value;
}

function field(rule, value) {
  const options = rule.enum ? rule.enum.map((choice, i) => [String(i), show(choice)]) : [rule.type].flat().includes("boolean") ? [["true", "yes"], ["false", "no"]] : null;
  if (!options) return make("input", { type: ["integer", "number"].includes(rule.type) ? "number" : "text", min: rule.minimum, max: rule.maximum, step: "any", placeholder: rule.default === undefined ? "" : show(rule.default) });
  const select = make("select", {}, make("option", { value: "" }, "–"), ...options.map(([key, text]) => make("option", { value: key }, text)));
  if (value !== undefined) select.value = rule.enum ? String(rule.enum.indexOf(value)) : String(value);
  return select;
}

export class CommandForm {
  // device: its name.
  constructor(catalogue, device, send) {
    this.schemas = catalogue.$defs || {};
    this.device = device;
    this.send = send;
    this.choice = make("select", { name: "command", "aria-label": "Command", onchange: () => this.begin() },
      make("option", { value: "" }, "Choose a command"), ...Object.entries(this.schemas).map(([name, schema]) => make("option", { value: name }, `${name}: ${schema.title || ""}`)));
    this.fields = make("div", { class: "fields" });
    this.fault = make("p", { class: "fault", role: "alert" });
    this.element = make("form", { novalidate: true, onsubmit: (event) => { event.preventDefault(); this.submit(); } },
      this.choice, this.fields, this.fault, this.question = make("div", { class: "question", hidden: true }), this.button = make("button", { class: "main" }, "Send"));
    this.element.addEventListener("change", () => this.answer());
    this.begin();
  }

  // Before what may put the device out of reach. A second click where "Send" was sends nothing.
  ask(given) {
    const no = make("button", { type: "button", onclick: () => this.answer() }, "No");
    this.question.replaceChildren(make("p", {}, `Send ${this.choice.value} to ${this.device}? It may be out of reach afterwards.`),
      no, make("button", { type: "button", class: "danger", onclick: () => { this.answer(); this.publish(given); } }, `Yes, send ${this.choice.value}`));
    this.question.hidden = false;
    this.button.hidden = true;
    no.focus();
  }

  answer() {
    this.question.hidden = true;
    this.button.hidden = this.choice.value === "";
  }

  begin() { this.values = {}; this.fault.textContent = ""; this.draw(); this.answer(); }

  draw() {
    const schema = this.schemas[this.choice.value] || {};
    const { all, required } = properties(schema, this.values);
    this.inputs = new Map();
    this.faults = new Map();
    const labels = Object.entries(all).map(([name, rule]) => {
      const input = field(rule, this.values[name]), fault = make("p", { class: "fault" });
      input.name = name;
      if (input.tagName === "INPUT" && this.values[name] !== undefined) input.value = this.values[name];
      input.addEventListener("change", () => {
        this.values[name] = read(input, rule);
        // Only when other fields are asked for now: what moves under the pointer is not clicked.
        if (Object.keys(properties(schema, this.values).all).join() !== Object.keys(all).join()) this.draw();
      });
      this.inputs.set(name, [input, rule]);
      this.faults.set(name, fault);
      return make("label", {}, `${name}${required.has(name) ? "" : " (optional)"}${rule.unit ? ", " + rule.unit : ""}`, input, make("small", { class: "quiet" }, rule.description || ""), fault);
    });
    this.fields.replaceChildren(...(schema.description ? [make("p", { class: "quiet" }, schema.description)] : []), ...labels);
  }

  submit() {
    const schema = this.schemas[this.choice.value], given = {};
    for (const [name, [input, rule]] of this.inputs) {
      const value = read(input, rule);
      if (value !== undefined) given[name] = value;
      this.faults.get(name).textContent = "";
    }
    this.fault.textContent = "";
    const missing = [...properties(schema, given).required].filter((name) => this.faults.has(name) && given[name] === undefined);
    for (const name of missing) this.faults.get(name).textContent = "is needed";
    if (missing.length > 0) this.inputs.get(missing[0])[0].focus();
    else if (schema["x-risky"]) this.ask(given);
    else this.publish(given);
  }

  async publish(given) {
    try {
      await this.send({ name: this.choice.value, properties: given });
    } catch (error) {
      const rest = (error.faults || []).filter(({ path, problem }) => {
        const place = this.faults.get(path.replace(/^properties\.?/, "").split(/[.[]/)[0]);
        if (place) place.textContent = problem;
        return !place;
      });
      this.fault.textContent = error.faults ? rest.map(({ path, problem }) => `${path.replace(/^properties\b\.?/, "") || this.choice.value} ${problem}`).join("; ") : error.message;
    }
  }
}
