// The settings that most people leave alone: numbers with the model's own as what stands there.

import { el } from "../dom.js";

const FIELDS = [
  { name: "negative_prompt", label: "Negative prompt", kind: "text", of: (model) => !model.distilled },
  { name: "infer_steps", label: "Steps", min: 1, max: 200, own: "infer_steps" },
  { name: "guidance_scale", label: "Guidance", min: 0, max: 50, step: 0.1, own: "guidance_scale", of: (model) => !model.distilled },
  {
    name: "guidance_scale_2",
    label: "Guidance, low noise",
    min: 0,
    max: 50,
    step: 0.1,
    own: "guidance_scale_2",
    of: (model) => !model.distilled && model.defaults.guidance_scale_2 !== null,
  },
  { name: "flow_shift", label: "Flow shift", min: 0.1, max: 100, step: 0.1, own: "flow_shift" },
  { name: "fps", label: "Frames a second", min: 1, max: 60, own: "fps" },
  { name: "num_fragments", label: "Fragments", min: 1, max: 100, own: () => 1 },
  { name: "control_scale", label: "Control", min: 0, max: 10, step: 0.1, own: () => 1, of: (model) => model.limits.takes_video },
  { name: "format", label: "File", kind: "choice" },
  { name: "priority", label: "Priority", min: -1000, max: 1000, own: () => 0 },
];

/** The fields below "More settings". */
export class More {
  #place;
  #inputs = new Map();
  #kept = {};
  #onChange;

  constructor(place, onChange) {
    this.#place = place;
    this.#onChange = onChange;
  }

  show(model, formats) {
    this.#kept = this.values();
    this.#inputs.clear();
    const shown = FIELDS.filter((field) => field.of === undefined || field.of(model));
    this.#place.replaceChildren(...shown.map((field) => this.#field(field, model, formats)));
  }

  /** What was filled in, by field. */
  values() {
    const found = { ...this.#kept };
    for (const [name, input] of this.#inputs) {
      delete found[name];
      if (input.value.trim() !== "") found[name] = input.type === "number" ? Number(input.value) : input.value;
    }
    return found;
  }

  /** What was filled in and the model at hand has a field for. */
  fields() {
    return Object.fromEntries(Object.entries(this.values()).filter(([name]) => this.#inputs.has(name)));
  }

  /** Fill fields in; those that are not named are emptied. */
  fill(values) {
    this.#kept = Object.fromEntries(Object.entries(values).filter(([name]) => FIELDS.some((field) => field.name === name)));
    for (const [name, input] of this.#inputs) input.value = this.#kept[name] ?? "";
  }

  set(name, value) {
    const input = this.#inputs.get(name);
    if (input) input.value = value ?? "";
  }

  #field({ name, label, kind, min, max, step = 1, own }, model, formats) {
    const id = `more-${name}`;
    const shared = { id, name, on: { input: () => this.#onChange(name) } };
    const placeholder = typeof own === "function" ? own() : own && model.defaults[own];
    let input;
    if (kind === "text") input = el("textarea", { ...shared, rows: 2, placeholder: model.defaults.negative_prompt || "What it should not show" });
    else if (kind === "choice") {
      const options = Object.keys(formats).map((format, at) => el("option", { value: at ? format : "" }, format));
      input = el("select", shared, ...options);
    } else input = el("input", { ...shared, type: "number", min, max, step, placeholder: String(placeholder) });
    if (this.#kept[name] !== undefined) input.value = this.#kept[name];
    this.#inputs.set(name, input);
    return el(
      "div",
      { class: `field ${kind === "text" ? "wide" : ""}`, dataset: { field: name } },
      el("label", { htmlFor: id }, label),
      input,
      el("p", { class: "error", hidden: true }),
    );
  }
}
