// The places of a request's pictures and videos: by click, by drop, by paste, each shown small.

import { el, iconButton } from "../dom.js";

const SLOTS = [
  { field: "image_path", upload: "image_file", name: "First frame", of: (model) => takes(model, "i2v", "flf2v") },
  { field: "last_frame_path", upload: "last_frame_file", name: "Last frame", of: (model) => takes(model, "flf2v") },
  {
    field: "reference_images",
    upload: "reference_files",
    name: "References",
    most: (model) => model.limits.max_references,
    of: (model) => model.limits.max_references > 0,
  },
  { field: "video", upload: "video_file", name: "Video to change", isVideo: true, of: (model) => model.limits.takes_video },
  { field: "mask", upload: "mask_file", name: "Mask video", isVideo: true, of: (model) => model.limits.takes_video },
];

const takes = (model, ...kinds) => kinds.some((kind) => model.tasks.includes(kind));
const isPicture = (file) => file.type.startsWith("image/") || /\.(hei[cf]|avif)$/i.test(file.name);

/** The slots that a model has; `onChange` is called when a file comes or goes. */
export class Pictures {
  #container;
  #onChange;
  #files = new Map(SLOTS.map(({ field }) => [field, []]));
  #model = null;

  constructor(container, onChange) {
    this.#container = container;
    this.#onChange = onChange;
  }

  /** Offer what a model takes; files of slots that it has not stay for the next model. */
  show(model) {
    this.#model = model;
    this.#container.hidden = this.#slots().length === 0;
    this.#container.replaceChildren(...this.#slots().map((slot) => this.#slot(slot)));
  }

  /** The files to send, each with the name of its form field. */
  uploads() {
    return this.#slots().flatMap(({ field, upload }) => this.#files.get(field).map((file) => [upload, file]));
  }

  has(field) {
    return this.#slots().some((slot) => slot.field === field) && this.#files.get(field).length > 0;
  }

  canTake(field) {
    return this.#slots().some((slot) => slot.field === field);
  }

  /** Put files in a slot, in place of what it holds; one that holds several gets more. */
  put(field, files) {
    const slot = SLOTS.find((slot) => slot.field === field);
    const most = slot.most?.(this.#model) ?? 1;
    this.#files.set(field, most > 1 ? [...this.#files.get(field), ...files].slice(0, most) : files.slice(0, 1));
    this.#changed();
  }

  clear() {
    for (const field of this.#files.keys()) this.#files.set(field, []);
    this.#changed();
  }

  /** Put dropped or pasted files where they fit; return whether there was a place for any. */
  place(files) {
    const pictures = files.filter(isPicture);
    const videos = files.filter((file) => file.type.startsWith("video/"));
    const empty = (isVideo) =>
      this.#slots().filter((slot) => Boolean(slot.isVideo) === isVideo && !this.#files.get(slot.field).length);
    let placed = false;
    for (const [found, isVideo] of [[pictures, false], [videos, true]]) {
      for (const file of found) {
        const slots = this.#slots().filter((slot) => Boolean(slot.isVideo) === isVideo);
        const slot = empty(isVideo)[0] ?? slots[0];
        if (!slot) continue;
        this.put(slot.field, [file]);
        placed = true;
      }
    }
    return placed;
  }

  #slots() {
    return this.#model === null ? [] : SLOTS.filter((slot) => slot.of(this.#model));
  }

  #changed() {
    this.show(this.#model);
    this.#onChange();
  }

  #slot(slot) {
    const files = this.#files.get(slot.field);
    const most = slot.most?.(this.#model) ?? 1;
    const takesMore = files.length < most;
    return el(
      "div",
      {
        class: "field slot-field",
        dataset: { field: slot.field },
        on: {
          dragover: (event) => {
            event.preventDefault();
            event.currentTarget.classList.add("over");
          },
          dragleave: (event) => event.currentTarget.classList.remove("over"),
          drop: (event) => this.#drop(event, slot),
        },
      },
      el("span", { class: "label" }, this.#needs(slot) ? `${slot.name} (needed)` : slot.name),
      el(
        "div",
        { class: "slots" },
        ...files.map((file) => this.#shown(slot, file)),
        takesMore && this.#empty(slot, files.length),
      ),
      el("p", { class: "error", hidden: true }),
    );
  }

  #needs(slot) {
    return slot.field === "image_path" && !this.#model.tasks.includes("t2v");
  }

  #empty(slot, number) {
    const most = slot.most?.(this.#model) ?? 1;
    const input = el("input", {
      type: "file",
      class: "hidden-input",
      accept: slot.isVideo ? "video/*,image/gif" : "image/*,.heic,.avif",
      multiple: most > 1,
      "aria-label": slot.name,
      on: { change: () => input.files.length && this.put(slot.field, [...input.files]) },
    });
    const text = number ? "Another" : slot.isVideo ? "Drop or pick a video" : "Drop, paste or pick";
    return el("label", { class: "slot empty" }, input, el("span", {}, text));
  }

  #shown(slot, file) {
    const url = URL.createObjectURL(file);
    const free = () => URL.revokeObjectURL(url);
    const picture = slot.isVideo
      ? el("video", { src: url, muted: true, playsInline: true, preload: "metadata", title: file.name })
      : el("img", { src: url, alt: file.name, on: { load: free, error: (event) => named(event, file) } });
    const remove = () => {
      this.#files.set(slot.field, this.#files.get(slot.field).filter((other) => other !== file));
      free();
      this.#changed();
    };
    return el("div", { class: "slot full" }, picture, iconButton("close", `Remove ${slot.name}`, remove));
  }

  #drop(event, slot) {
    event.preventDefault();
    event.stopPropagation();
    document.dispatchEvent(new Event("dropped"));
    const files = [...event.dataTransfer.files];
    const fitting = files.filter((file) => (slot.isVideo ? !isPicture(file) : isPicture(file)));
    if (fitting.length) this.put(slot.field, fitting);
    event.currentTarget?.classList.remove("over");
  }
}

/** Of a picture that the browser cannot show, such as a HEIC, show the name. */
function named(event, file) {
  event.currentTarget.replaceWith(el("span", { class: "file-name" }, file.name));
}
