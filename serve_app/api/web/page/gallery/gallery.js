// The finished videos, newest first; older ones come as one scrolls.

import { el, icon, keyed, setText } from "../dom.js";
import { tasks } from "../tasks.js";
import { isDone } from "../words.js";
import { openCompare } from "./compare.js";
import { createTile, updateTile } from "./tile.js";

/** The gallery, in its place on the page; `onOpen` gets the id of a video to look at. */
export class Gallery {
  #place;
  #onOpen;
  #list = el("ul", { class: "tiles" });
  #picked = new Set();

  constructor(place, { onOpen }) {
    this.#place = place;
    this.#onOpen = onOpen;
    this.number = el("span", { class: "summary" });
    this.compare = el("button", { type: "button", class: "quiet", on: { click: () => this.#compare() } }, icon("compare"), el("span", {}));
    this.empty = el("div", { class: "empty big" }, icon("film"), el("p", {}, "Your videos come here."), el("p", { class: "note" }, "Write a prompt, or pick an example."));
    const end = el("div", { class: "end", "aria-hidden": "true" });
    place.replaceChildren(el("div", { class: "section-head" }, el("h2", {}, "Videos"), this.number, this.compare), this.empty, this.#list, end);
    tasks.addEventListener("change", () => this.#draw());
    new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && tasks.more().catch(() => {}), { rootMargin: "800px" }).observe(end);
    this.#draw();
  }

  #draw() {
    const done = tasks.all().filter(isDone);
    const handlers = { onOpen: this.#onOpen, onCompare: (id, isPicked) => this.#pick(id, isPicked) };
    keyed(this.#list, done, (task) => task.task_id, (task) => createTile(task, handlers), updateTile);
    setText(this.number, done.length ? `${done.length}${tasks.hasMore ? "+" : ""}` : "");
    this.empty.hidden = done.length > 0 || !tasks.isLoaded;
    for (const id of this.#picked) if (!tasks.get(id)) this.#picked.delete(id);
    this.#drawPicked();
  }

  /** Two videos can be compared: a third takes the place of the first. */
  #pick(id, isPicked) {
    if (isPicked) this.#picked.add(id);
    else this.#picked.delete(id);
    if (this.#picked.size > 2) this.#picked.delete([...this.#picked][0]);
    this.#drawPicked();
  }

  #drawPicked() {
    const number = this.#picked.size;
    this.compare.hidden = number === 0;
    this.compare.disabled = number !== 2;
    setText(this.compare.querySelector("span"), number === 2 ? "Compare two" : "Choose one more");
    for (const tile of this.#list.children) {
      const isPicked = this.#picked.has(tile.dataset.task);
      tile.classList.toggle("picked", isPicked);
      tile.querySelector(".tile-pick input").checked = isPicked;
    }
  }

  #compare() {
    const [one, other] = [...this.#picked].map((id) => tasks.get(id));
    openCompare(one, other);
    this.#picked.clear();
    this.#drawPicked();
  }
}
