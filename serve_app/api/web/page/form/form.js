// The form of a new video: it follows the model that is chosen, and is kept until the tab is closed.

import { Refusal, sentence } from "../api.js";
import { el, icon, iconButton, segments, setText } from "../dom.js";
import { showPicture, thumbnailPath } from "../media.js";
import { toast } from "../toast.js";
import { count, title } from "../words.js";
import { clearErrors, showError } from "./errors.js";
import { EXAMPLES } from "./examples.js";
import { Loras } from "./loras.js";
import { More } from "./more.js";
import { Pictures } from "./pictures.js";
import { Sizes } from "./sizes.js";
import { submit } from "./submit.js";

const KEPT = "wan-serve-draft";
const STRIDE = 4; // videos have 4k + 1 frames
const PRESETS = { fast: "Fast", quality: "Quality" };

const $ = (id) => document.getElementById(id);

/** The form, over the models that the service has. */
export class Form {
  #service;
  #model;
  #goesOn = null;
  #isLocked = false;
  #isSending = false;

  constructor(service) {
    this.#service = service;
    this.node = $("form");
    const kept = () => this.#changed();
    this.pictures = new Pictures($("pictures"), () => this.#picturesChanged());
    this.sizes = new Sizes({ ratios: $("ratios"), tiers: $("tiers"), output: $("size-out") }, kept);
    this.loras = new Loras($("loras"), kept);
    this.more = new More($("more-fields"), (name) => {
      if (name === "infer_steps") this.#drawPresets();
      if (name === "fps") this.#drawSeconds();
      this.#changed();
    });
    this.#listen();
    $("model").replaceChildren(...service.models.map((model) => el("option", { value: model.name }, model.name)));
    $("enhance").hidden = !service.prompt_enhancer;
    this.#restore();
  }

  #listen() {
    $("model").addEventListener("change", () => this.#show($("model").value));
    $("seconds").addEventListener("input", () => this.#drawSeconds());
    $("seed-lock").addEventListener("click", () => this.#lock(!this.#isLocked));
    $("seed").addEventListener("input", () => this.#lock($("seed").value.trim() !== ""));
    $("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.node.requestSubmit();
    });
    this.node.addEventListener("input", (event) => {
      const field = event.target.closest(".field");
      if (field) clearErrors(field);
      this.#changed();
    });
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  /** Fill the form with the settings of an earlier video. */
  use(settings, { keepsSeed }) {
    const { model, prompt, seed, width, height, num_frames: frames, loras = [] } = settings;
    const isServed = this.#service.models.some((served) => served.name === model);
    clearErrors(this.node);
    this.goOn(null);
    $("per-line").checked = false;
    $("prompt").value = prompt ?? "";
    $("count").value = 1;
    this.#show(isServed ? model : this.#model.name);
    this.loras.value = loras;
    this.loras.show(this.#model);
    const own = this.#model.defaults;
    const names = Object.keys(settings).filter((name) => settings[name] !== own[name] && !(name === "num_fragments" && settings[name] === 1));
    this.more.fill(Object.fromEntries(names.map((name) => [name, settings[name]])));
    if (frames) $("seconds").value = (frames - 1) / STRIDE;
    if (width && height) this.sizes.use(width, height);
    $("seed").value = keepsSeed && seed != null ? seed : "";
    this.#lock($("seed").value !== "");
    this.#drawPresets();
    this.#drawSeconds();
    this.#changed();
    $("prompt").focus();
    if (!isServed) toast(`The model ${model} is not served here; another one is chosen.`);
  }

  /** Have the next video go on from an earlier one; null: from none. */
  goOn(task) {
    this.#goesOn = task;
    const place = $("continuing");
    place.hidden = task === null;
    if (task !== null) {
      const picture = el("img", { alt: "" });
      showPicture(picture, thumbnailPath(task.task_id));
      const text = el("span", {}, "Goes on from “", el("b", {}, title(task)), "”");
      place.replaceChildren(picture, text, iconButton("close", "Go on from no video", () => this.goOn(null)));
      if (!$("prompt").value.trim()) $("prompt").value = task.prompt;
      $("prompt").focus();
    }
    this.#changed();
  }

  /** Put files where they fit, of a drop or a paste anywhere on the page. */
  take(files) {
    return this.pictures.place(files);
  }

  #show(name) {
    const models = this.#service.models;
    this.#model = models.find((model) => model.name === name) ?? models[0];
    $("model").value = this.#model.name;
    this.pictures.show(this.#model);
    this.sizes.show(this.#model, this.#hasPicture());
    this.loras.show(this.#model);
    this.more.show(this.#model, this.#service.formats);
    this.#drawExamples();
    this.#drawPresets();
    const { max_frames: most } = this.#model.limits;
    Object.assign($("seconds"), { min: 1, max: Math.floor((most - 1) / STRIDE), step: 1 });
    $("seconds").value = (this.#model.defaults.num_frames - 1) / STRIDE;
    this.#drawSeconds();
    this.#changed();
  }

  #hasPicture() {
    return ["image_path", "last_frame_path", "video"].some((field) => this.pictures.has(field));
  }

  #picturesChanged() {
    this.sizes.show(this.#model, this.#hasPicture());
    this.#changed();
  }

  #drawExamples() {
    const examples = this.#model.example_prompts.length ? this.#model.example_prompts : EXAMPLES;
    const fill = (text) => {
      $("prompt").value = text;
      $("prompt").focus();
      clearErrors(this.node);
      this.#changed();
    };
    $("examples").replaceChildren(
      ...examples.slice(0, 4).map((text) => el("button", { type: "button", class: "chip", title: text, on: { click: () => fill(text) } }, text)),
    );
  }

  #drawPresets() {
    const { presets, defaults } = this.#model;
    const steps = this.more.fields().infer_steps ?? defaults.infer_steps;
    const chosen = presets.find((preset) => preset.infer_steps === steps)?.name ?? null;
    const options = presets.map(({ name, infer_steps: number }) => ({
      value: name,
      label: PRESETS[name] ?? name,
      title: count(number, "step"),
    }));
    $("presets-field").hidden = presets.length < 2;
    segments($("presets"), "preset", options, chosen, (name) => {
      const number = presets.find((preset) => preset.name === name).infer_steps;
      this.more.set("infer_steps", number === defaults.infer_steps ? "" : number);
      this.#changed();
    });
  }

  #frames() {
    return Number($("seconds").value) * STRIDE + 1;
  }

  #drawSeconds() {
    const fps = this.more.fields().fps || this.#model.defaults.fps;
    const seconds = Math.round((this.#frames() / fps) * 10) / 10;
    setText($("seconds-out"), `${seconds} s · ${this.#frames()} frames`);
    $("seconds").setAttribute("aria-valuetext", `${seconds} seconds`);
  }

  #lock(isLocked) {
    this.#isLocked = isLocked && $("seed").value.trim() !== "";
    const button = $("seed-lock");
    button.setAttribute("aria-pressed", String(this.#isLocked));
    button.setAttribute("aria-label", this.#isLocked ? "The seed is kept; click to draw new ones" : "A new seed each time");
    button.title = button.getAttribute("aria-label");
    button.replaceChildren(icon(this.#isLocked ? "lock" : "dice"));
    if (!this.#isLocked) $("seed").value = "";
  }

  #prompts() {
    const text = $("prompt").value;
    const lines = $("per-line").checked ? text.split("\n").map((line) => line.trim()) : [text.trim()];
    const found = lines.filter(Boolean);
    return found.length ? found : [""];
  }

  #versions() {
    return Math.min(Math.max(Math.round(Number($("count").value)) || 1, 1), 16);
  }

  #fields() {
    const seed = $("seed").value.trim();
    const loras = this.loras.value;
    return {
      model: this.#model.name,
      ...this.sizes.fields(),
      num_frames: this.#frames(),
      ...this.more.fields(),
      ...(seed === "" ? {} : { seed: /^-?\d+$/.test(seed) ? Number(seed) : seed }),
      ...(loras.length ? { loras } : {}),
      ...(this.node.elements.enhance_prompt.checked ? { enhance_prompt: true } : {}),
      ...(this.#goesOn ? { continue_from: { task_id: this.#goesOn.task_id } } : {}),
    };
  }

  async #submit() {
    if (this.#isSending) return;
    this.#isSending = true;
    this.#changed();
    clearErrors(this.node);
    const [prompts, fields, uploads] = [this.#prompts(), this.#fields(), this.pictures.uploads()];
    let made = 0;
    try {
      for (const prompt of prompts) {
        for (let version = 0; version < this.#versions(); version++) {
          const seed = typeof fields.seed === "number" && version ? { seed: fields.seed + version } : {};
          await submit({ prompt, ...fields, ...seed }, uploads);
          made++;
        }
      }
      this.goOn(null);
      toast(made === 1 ? "The video is in the queue." : `${made} videos are in the queue.`);
    } catch (error) {
      this.#refused(error, prompts, made);
    }
    this.#isSending = false;
    this.#changed();
  }

  #refused(error, prompts, made) {
    const line = Math.floor(made / this.#versions());
    if (made) {
      toast(`${count(made, "video")} went into the queue, then one was refused.`);
      $("prompt").value = prompts.slice(line).join("\n");
    }
    if (!(error instanceof Refusal)) console.warn(error);
    const before = prompts.length > 1 ? `“${prompts[line].slice(0, 40)}”: ` : "";
    showError(this.node, error, sentence(error), before);
  }

  #changed() {
    const number = this.#prompts().length * this.#versions();
    const button = $("go");
    button.disabled = this.#isSending;
    setText(button, this.#isSending ? "Sending…" : number === 1 ? "Make the video" : `Make ${number} videos`);
    sessionStorage.setItem(KEPT, JSON.stringify(this.#draft()));
  }

  #draft() {
    return {
      prompt: $("prompt").value,
      perLine: $("per-line").checked,
      model: this.#model.name,
      size: this.sizes.value,
      seconds: $("seconds").value,
      seed: $("seed").value,
      loras: this.loras.value,
      more: this.more.values(),
    };
  }

  #restore() {
    let draft = {};
    try {
      draft = JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
    } catch {
      // what another version kept is not needed
    }
    $("prompt").value = draft.prompt ?? $("prompt").value;
    $("per-line").checked = draft.perLine ?? false;
    if (draft.size) this.sizes.value = draft.size;
    this.loras.value = draft.loras ?? [];
    this.more.fill(draft.more ?? {});
    $("seed").value = draft.seed ?? "";
    this.#show(draft.model);
    if (draft.seconds) $("seconds").value = draft.seconds;
    this.#lock($("seed").value !== "");
    this.#drawSeconds();
  }
}
