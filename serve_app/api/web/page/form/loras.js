// The LoRAs of a request, each with a slider; with two, for a model of two experts.

import { el, iconButton, setText } from "../dom.js";

/** The chosen LoRAs of the model at hand. */
export class Loras {
  #place;
  #model = null;
  #chosen = [];
  #onChange;

  constructor(place, onChange) {
    this.#place = place;
    this.#onChange = onChange;
  }

  get value() {
    return this.#chosen;
  }

  set value(chosen) {
    this.#chosen = chosen.map((lora) => ({ ...lora }));
  }

  show(model) {
    this.#model = model;
    this.#chosen = this.#chosen.filter((lora) => model.loras.includes(lora.name));
    this.#place.hidden = model.loras.length === 0;
    this.#draw();
  }

  #draw() {
    const left = this.#model.loras.filter((name) => !this.#chosen.some((lora) => lora.name === name));
    const add = el(
      "select",
      { id: "lora-add", on: { change: () => this.#add(add.value) } },
      el("option", { value: "" }, this.#chosen.length ? "Add another…" : "Add a LoRA…"),
      ...left.map((name) => el("option", { value: name }, name)),
    );
    this.#place.replaceChildren(
      el("label", { htmlFor: "lora-add" }, "LoRAs"),
      ...this.#chosen.map((lora) => this.#row(lora)),
      left.length ? add : "",
      el("p", { class: "error", hidden: true }),
    );
  }

  #add(name) {
    if (!name) return;
    this.#chosen.push({ name, strength: 1 });
    this.#changed();
  }

  #changed() {
    this.#draw();
    this.#onChange();
  }

  #row(lora) {
    const hasTwo = this.#model.defaults.guidance_scale_2 !== null;
    const remove = () => {
      this.#chosen = this.#chosen.filter((other) => other !== lora);
      this.#changed();
    };
    const note = this.#model.lora_notes[lora.name];
    return el(
      "div",
      { class: "lora" },
      el("div", { class: "lora-head" }, el("span", { class: "lora-name", title: lora.name }, lora.name), iconButton("close", `Remove ${lora.name}`, remove)),
      this.#slider(lora, "strength", hasTwo ? "High noise" : "Strength"),
      hasTwo && this.#slider(lora, "strength_low", "Low noise"),
      note && el("p", { class: "note" }, note),
    );
  }

  #slider(lora, name, label) {
    const value = () => lora[name] ?? lora.strength;
    const output = el("output", {}, value().toFixed(2));
    const input = el("input", {
      type: "range",
      min: -2,
      max: 2,
      step: 0.05,
      value: value(),
      "aria-label": `${label} of ${lora.name}`,
      on: {
        input: () => {
          lora[name] = Number(input.value);
          setText(output, lora[name].toFixed(2));
          this.#onChange();
        },
      },
    });
    return el("div", { class: "slider" }, el("span", {}, label), input, output);
  }
}
