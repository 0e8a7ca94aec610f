// A tile of the gallery: the video, which plays while one points at it, and its prompt.

import { el, icon, setText } from "../dom.js";
import { mediaUrl, resultPath, showPicture, thumbnailPath } from "../media.js";
import { length, moment, title } from "../words.js";

const MOVING = new Set(["mp4", "webm"]);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Make the tile of a finished task. */
export function createTile(task, { onOpen, onCompare }) {
  const id = task.task_id;
  const picture = el("img", { alt: "", loading: "lazy", decoding: "async", draggable: false });
  const open = el("button", { type: "button", class: "tile-open", on: { click: () => onOpen(id) } }, picture);
  const node = el(
    "li",
    { class: "tile", dataset: { task: id } },
    open,
    el(
      "div",
      { class: "tile-text" },
      el("p", { class: "tile-title" }),
      el("p", { class: "tile-meta" }),
    ),
    el(
      "label",
      { class: "tile-pick", title: "Choose to compare" },
      el("input", { type: "checkbox", on: { change: (event) => onCompare(id, event.target.checked) } }),
      icon("compare"),
    ),
  );
  node.style.setProperty("--ratio", (task.width / task.height).toFixed(4));
  if (MOVING.has(task.format)) playsOnSight(node, open, id);
  return node;
}

/** Bring a tile in line with its task. */
export function updateTile(node, task) {
  if (node.task === task) return;
  node.task = task;
  const text = title(task);
  setText(node.querySelector(".tile-title"), text);
  setText(node.querySelector(".tile-meta"), [length(task), `${task.width} × ${task.height}`, moment(task.finished_at)].join(" · "));
  node.querySelector(".tile-open").setAttribute("aria-label", `Open: ${text.slice(0, 120)}`);
  node.querySelector(".tile-pick input").setAttribute("aria-label", `Compare: ${text.slice(0, 60)}`);
  const path = task.format === "gif" || task.format === "webp" ? resultPath(task.task_id) : thumbnailPath(task.task_id);
  showPicture(node.querySelector("img"), path);
}

function playsOnSight(node, open, id) {
  let video = null;
  const play = async () => {
    if (calm.matches || video) return;
    video = el("video", { muted: true, loop: true, playsInline: true, disablePictureInPicture: true, "aria-hidden": "true", tabIndex: -1 });
    open.append(video);
    const mine = video;
    mine.src = await mediaUrl(resultPath(id));
    mine.addEventListener("playing", () => mine.classList.add("playing"));
    mine.play().catch(() => {}); // taken away before it began
  };
  const rest = () => {
    video?.pause();
    video?.remove();
    video = null;
  };
  node.addEventListener("pointerenter", play);
  node.addEventListener("pointerleave", rest);
  open.addEventListener("focus", () => open.matches(":focus-visible") && play());
  open.addEventListener("blur", rest);
}
