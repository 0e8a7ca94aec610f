// The queue: what runs, what waits and what came to nothing, always in sight.

import { el, icon, keyed, setText } from "../dom.js";
import { service } from "../service.js";
import { clearWaiting, forget, tasks } from "../tasks.js";
import { confirm, toast } from "../toast.js";
import { count, duration, isRunning, isWaiting } from "../words.js";
import { attempt, createRow, showPreview, tick, updateRow } from "./row.js";

const PREVIEW_MS = 2_000;
const MOST_PREVIEWS = 6;
const FEW = 3;

/** The queue, in its place on the page; `onAgain` gets the id of a failed task to try again. */
export class Queue {
  #place;
  #onAgain;
  #list = el("ol", { class: "rows" });
  #ended = el("ol", { class: "rows ended" });
  #showsAll = false;

  constructor(place, { onAgain }) {
    this.#place = place;
    this.#onAgain = onAgain;
    this.#build();
    tasks.addEventListener("change", () => this.#draw());
    service.addEventListener("change", () => this.#draw());
    setInterval(() => this.#list.childElementCount && document.hidden === false && this.#tick(), 1_000);
    setInterval(() => document.hidden || this.#previews(), PREVIEW_MS);
    this.#draw();
  }

  #build() {
    const clear = () => attempt(() => this.#clear());
    this.pause = el("button", { type: "button", class: "quiet", on: { click: () => attempt(() => this.#pause()) } }, icon("pause"), el("span", {}, "Pause"));
    this.clear = el("button", { type: "button", class: "quiet", on: { click: clear } }, icon("close"), el("span", {}, "Clear"));
    this.summary = el("span", { class: "summary" });
    this.empty = el("p", { class: "empty" });
    this.endedHead = el(
      "div",
      { class: "ended-head" },
      el("h3", {}),
      el("button", { type: "button", class: "quiet", on: { click: () => this.#toggle() } }, "Show all"),
      el("button", { type: "button", class: "quiet", on: { click: () => attempt(() => this.#clearEnded()) } }, "Remove all"),
    );
    this.#place.replaceChildren(
      el("div", { class: "section-head" }, el("h2", {}, "Queue"), this.summary, this.pause, this.clear),
      this.empty,
      this.#list,
      this.endedHead,
      this.#ended,
    );
  }

  #draw() {
    const unended = tasks.unended();
    const create = (task) => createRow(task, { onAgain: this.#onAgain });
    keyed(this.#list, unended, (task) => task.task_id, create, updateRow);
    const bad = tasks.all().filter((task) => task.status === "failed" || task.status === "cancelled");
    keyed(this.#ended, this.#showsAll ? bad : bad.slice(0, FEW), (task) => task.task_id, create, updateRow);
    this.#drawHead(unended, bad);
  }

  #drawHead(unended, bad) {
    const [running, waiting] = [unended.filter(isRunning).length, unended.filter(isWaiting).length];
    const isPaused = service.queue?.paused ?? false;
    const etas = unended.map((task) => task.eta_seconds).filter((eta) => eta !== null);
    const words = [
      running && `${running} running`,
      waiting && `${waiting} waiting`,
      etas.length && etas.length === unended.length && `done in about ${duration(Math.max(...etas))}`,
      isPaused && "paused",
    ];
    setText(this.summary, words.filter(Boolean).join(" · "));
    setText(document.getElementById("queue-link"), unended.length ? this.summary.textContent : "");
    this.#place.classList.toggle("paused", isPaused);
    setText(this.pause.querySelector("span"), isPaused ? "Go on" : "Pause");
    this.pause.querySelector("svg").replaceWith(icon(isPaused ? "play" : "pause"));
    this.clear.hidden = waiting === 0;
    this.empty.hidden = unended.length > 0;
    setText(this.empty, this.#whyEmpty(isPaused));
    this.endedHead.hidden = bad.length === 0;
    setText(this.endedHead.querySelector("h3"), `Not finished (${bad.length})`);
    const [all] = this.endedHead.querySelectorAll("button");
    all.hidden = bad.length <= FEW;
    setText(all, this.#showsAll ? "Show few" : "Show all");
  }

  #whyEmpty(isPaused) {
    if (isPaused) return "The queue is paused: what you make now waits until you go on.";
    return tasks.isLoaded ? "Nothing waits. What you make appears here, as it comes about." : "Asking the service…";
  }

  #tick() {
    for (const row of this.#list.children) tick(row);
  }

  #previews() {
    const rows = [...this.#list.children].filter((row) => isRunning(row.task)).slice(0, MOST_PREVIEWS);
    for (const row of rows) showPreview(row);
  }

  async #pause() {
    const isPaused = !service.queue?.paused;
    await service.pause(isPaused);
    toast(isPaused ? "Paused: what runs goes on, nothing else begins." : "The queue goes on.");
  }

  async #clear() {
    const waiting = tasks.unended().filter(isWaiting).length;
    if (await confirm(`Cancel ${count(waiting, "waiting video")}?`, "Cancel them")) await clearWaiting();
  }

  #toggle() {
    this.#showsAll = !this.#showsAll;
    this.#draw();
  }

  async #clearEnded() {
    const bad = tasks.all().filter((task) => task.status === "failed" || task.status === "cancelled");
    for (const task of bad) await forget(task.task_id);
  }
}
