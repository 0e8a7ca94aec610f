// A row of the queue: picture, prompt, how far it is, and what can be done with it.

import { Refusal, send, sentence, taskPath } from "../api.js";
import { el, iconButton, setText } from "../dom.js";
import { inputPath, showPicture } from "../media.js";
import { cancel, finishEarly, forget, putNext } from "../tasks.js";
import { toast } from "../toast.js";
import { duration, isRunning, isUnended, isWaiting, length, title } from "../words.js";

/** Do something that may be refused, and say so. */
export async function attempt(action) {
  try {
    await action();
  } catch (error) {
    toast(sentence(error), { isError: true });
  }
}

/** Make the row of a task. */
export function createRow(task, { onAgain }) {
  const id = task.task_id;
  const node = el(
    "li",
    { class: "row", dataset: { task: id } },
    el("div", { class: "row-picture" }, el("img", { alt: "", hidden: true }), el("b", { "aria-hidden": "true" })),
    el(
      "div",
      { class: "row-text" },
      el("p", { class: "row-title" }),
      el("p", { class: "row-meta" }),
      el("progress", { max: 1, value: 0 }),
      el("p", { class: "row-state" }, el("span", {}), el("span", { class: "row-time" })),
      el("p", { class: "row-note" }),
    ),
    el(
      "div",
      { class: "row-tools" },
      iconButton("next", "Run this next", () => attempt(() => putNext(id)), { class: "tool-next" }),
      iconButton("done", "Finish now with what there is", () => attempt(() => finishEarly(id)), { class: "tool-finish" }),
      iconButton("reuse", "Try again", () => onAgain(id), { class: "tool-again" }),
      iconButton("close", "Cancel", () => attempt(() => stop(node)), { class: "tool-stop" }),
    ),
  );
  return node;
}

const stop = (node) => (isUnended(node.task) ? cancel(node.task.task_id) : forget(node.task.task_id));

/** Bring a row in line with its task. */
export function updateRow(node, task) {
  if (node.task === task) return;
  node.task = task;
  const text = title(task);
  node.dataset.status = task.status;
  const of = (name) => node.querySelector(name);
  setText(of(".row-title"), text);
  of(".row-title").title = text;
  setText(of(".row-meta"), `${task.model} · ${task.width} × ${task.height} · ${length(task)} · seed ${task.seed}`);
  const bar = of("progress");
  bar.hidden = !isRunning(task);
  bar.value = task.progress;
  bar.setAttribute("aria-label", `Progress of ${text}`);
  setText(of(".row-state span"), stateOf(task));
  const note = of(".row-note");
  setText(note, task.notes.join(" "));
  note.title = note.textContent;
  note.hidden = task.notes.length === 0;
  node.style.setProperty("--ratio", (task.width / task.height).toFixed(4));
  of(".tool-next").hidden = !isWaiting(task) || task.queue_position === 1;
  of(".tool-finish").hidden = !isRunning(task) || task.step < 1;
  of(".tool-again").hidden = isUnended(task);
  const stopper = of(".tool-stop");
  stopper.title = isUnended(task) ? "Cancel" : "Remove";
  stopper.setAttribute("aria-label", `${stopper.title}: ${text.slice(0, 60)}`);
  const still = task.inputs.find((field) => !["video", "mask"].includes(field));
  if (still && !of("img").dataset.isPreview) {
    of("img").hidden = false;
    showPicture(of("img"), inputPath(task.task_id, still));
  }
  tick(node);
}

/** Bring the times of a row in line with the clock. */
export function tick(node) {
  const { task } = node;
  setText(node.querySelector(".row-time"), timeOf(task));
}

function stateOf(task) {
  if (task.error) return task.error.message;
  if (isRunning(task)) return phase(task) + (task.replica ? ` on ${task.replica}` : "");
  if (task.status === "cancelled") return "Cancelled";
  return task.queue_position === null ? "Waits: the queue is paused" : `Number ${task.queue_position} in the queue`;
}

const phase = (task) => (task.phase ?? "preparing").replace(/^./, (first) => first.toUpperCase());

function timeOf(task) {
  const since = (Date.now() - task.seenAt) / 1000;
  const left = task.eta_seconds === null ? null : Math.max(task.eta_seconds - since, 1);
  if (isRunning(task)) {
    const passed = duration((Date.now() - new Date(task.started_at)) / 1000);
    return left === null ? passed : `${passed}, about ${duration(left)} left`;
  }
  return isWaiting(task) && left !== null ? `about ${duration(left)}` : "";
}

/** Fetch the newest preview of a running task, if there is one yet. */
export async function showPreview(node) {
  try {
    const answer = await send(taskPath(node.task.task_id, "/preview?empty=true"));
    if (answer.status !== 200) return;
    const img = node.querySelector("img");
    const before = img.src;
    img.src = URL.createObjectURL(await answer.blob());
    img.dataset.isPreview = "true";
    img.hidden = false;
    if (before.startsWith("blob:") && !img.dataset.path) URL.revokeObjectURL(before);
    delete img.dataset.path;
  } catch (error) {
    if (!(error instanceof Refusal)) return; // it comes again with the next look
  }
}
