// One video, large, with all that can be done with it.

import { ask, taskPath } from "../api.js";
import { el, icon, iconButton } from "../dom.js";
import { fileAt, inputPath, mediaUrl, resultPath, save, thumbnailPath } from "../media.js";
import { attempt } from "../queue/row.js";
import { forget, tasks } from "../tasks.js";
import { confirm, dialog, toast } from "../toast.js";
import { duration, isDone, length, moment, title } from "../words.js";
import { asCurl, asPython, copy } from "./snippets.js";

const LONG = 240; // letters, beyond which a prompt scrolls
const MOST_LARGER = 6; // times: a small video stays something to look at
let shown = null;

/** Show a finished video; the page's address names it while it is open. */
export function openViewer(id, actions) {
  const task = tasks.get(id);
  if (!task || !isDone(task) || shown?.dataset.task === id) return;
  shown?.close();
  const media = mediaOf(task);
  const node = dialog(`Video: ${title(task).slice(0, 80)}`, "viewer", [
    el("div", { class: "stage" }, media),
    el("div", { class: "about" }, ...about(task), doings(task, media, actions, () => node.close())),
    iconButton("close", "Close", () => node.close(), { class: "viewer-close" }),
  ]);
  node.dataset.task = id;
  shown = node;
  history.replaceState(null, "", `#task=${encodeURIComponent(id)}`);
  node.addEventListener("close", () => {
    if (shown === node) shown = null;
    if (shown === null) history.replaceState(null, "", location.pathname + location.search);
  });
}

/** The id of the task that the page's address names, or null. */
export const taskInAddress = () => new URLSearchParams(location.hash.slice(1)).get("task");

function mediaOf(task) {
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const isVideo = task.format === "mp4" || task.format === "webm";
  const path = task.format === "png-zip" ? thumbnailPath(task.task_id) : resultPath(task.task_id);
  const media = isVideo
    ? el("video", { controls: true, loop: true, muted: true, playsInline: true, autoplay: !isCalm })
    : el("img", { alt: title(task) });
  media.style.setProperty("--most", `${task.width * MOST_LARGER}px`);
  mediaUrl(path).then((url) => {
    media.src = url;
  });
  return media;
}

function about(task) {
  const took = task.finished_at && task.started_at ? (new Date(task.finished_at) - new Date(task.started_at)) / 1000 : null;
  const facts = [
    ["Model", task.model],
    ["Size", `${task.width} × ${task.height}`],
    ["Length", `${length(task)}, ${task.num_frames} frames at ${task.fps} a second`],
    ["Steps", String(task.step)],
    ["Seed", String(task.seed)],
    ["Made", moment(task.finished_at) + (took === null ? "" : `, in ${took < 1 ? "under 1 s" : duration(took)}`)],
  ];
  return [
    el("p", { class: "viewer-title", tabIndex: title(task).length > LONG ? 0 : -1 }, title(task)),
    task.revised_prompt && el("p", { class: "note" }, `Written out: ${task.revised_prompt}`),
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    ...task.notes.map((note) => el("p", { class: "note" }, note)),
  ];
}

function doings(task, media, actions, close) {
  const id = task.task_id;
  const act = (name, label, action, extra = "") =>
    el("button", { type: "button", class: `action ${extra}`, on: { click: () => attempt(action) } }, icon(name), label);
  const thenClose = (action) => async () => {
    await action();
    close();
  };
  const frame = (field) => thenClose(async () => actions.usePicture(field, await frameOf(task, media)));
  const settings = async () => (await ask(taskPath(id, "/settings"))).settings;
  return el(
    "div",
    { class: "doings" },
    act("reuse", "Same settings", thenClose(() => actions.useSettings(id, { keepsSeed: false }))),
    act("lock", "Same settings and seed", thenClose(() => actions.useSettings(id, { keepsSeed: true }))),
    act("dice", "Again with a new seed", thenClose(() => actions.again(id, { seed: -1 }))),
    actions.canTake("image_path") && act("picture", "Shown frame as first", frame("image_path")),
    actions.canTake("last_frame_path") && act("picture", "Shown frame as last", frame("last_frame_path")),
    (task.format === "mp4" || task.format === "webm") && act("extend", "Go on from its end", thenClose(() => actions.goOn(task))),
    act("download", "Download", () => save(resultPath(id), `${id}.${task.format === "png-zip" ? "zip" : task.format}`)),
    act("code", "Copy as curl", async () => copied(asCurl(await settings()))),
    act("code", "Copy as Python", async () => copied(asPython(await settings()))),
    act("trash", "Delete", async () => {
      if (await confirm("Delete this video? It cannot be brought back.", "Delete")) await thenClose(() => forget(id))();
    }, "danger"),
  );
}

async function copied(text) {
  if (await copy(text)) {
    toast("Copied.");
    return;
  }
  const area = el("textarea", { rows: 10, readOnly: true, value: text, "aria-label": "To copy" });
  const node = dialog("To copy by hand", "question", [area, el("div", { class: "actions" }, el("button", { type: "button", on: { click: () => node.close() } }, "Close"))]);
  area.select();
}

/** The frame that a video shows as a file, or of another picture its last frame. */
async function frameOf(task, media) {
  if (!(media instanceof HTMLVideoElement) || !media.videoWidth) {
    return fileAt(taskPath(task.task_id, "/last_frame"), "frame.png");
  }
  const canvas = el("canvas", { width: media.videoWidth, height: media.videoHeight });
  canvas.getContext("2d").drawImage(media, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], "frame.png", { type: "image/png" });
}

/** Fetch the pictures and videos that a task was made from, by field. */
export async function inputsOf(id, fields) {
  return Promise.all(fields.map(async (field) => [field.replace(/\[\d+\]$/, ""), await fileAt(inputPath(id, field), field)]));
}
