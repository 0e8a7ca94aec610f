// Two videos side by side, in step.

import { el, icon, iconButton } from "../dom.js";
import { mediaUrl, resultPath } from "../media.js";
import { dialog } from "../toast.js";
import { title } from "../words.js";

const DRIFT_S = 0.05;

/** Show two finished videos next to each other; one bar moves both. */
export function openCompare(one, other) {
  const [left, right] = [one, other].map((task) => el("video", { muted: true, loop: false, playsInline: true, title: title(task) }));
  const bar = el("input", { type: "range", min: 0, max: 1, step: 0.001, value: 0, "aria-label": "Place in both videos" });
  const toggle = el("button", { type: "button", class: "icon" });
  const length = () => Math.max(left.duration || 0, right.duration || 0);
  const longer = () => ((left.duration || 0) >= (right.duration || 0) ? left : right);
  let isPlaying = false;
  let isTouched = false; // from then on nothing plays by itself
  let place = 0; // where the bar was moved to, a share of the length

  const seek = (at) => {
    for (const video of [left, right]) video.currentTime = Math.min(at, video.duration || 0);
  };
  const play = (plays) => {
    isPlaying = plays;
    for (const video of [left, right]) plays ? video.play().catch(() => {}) : video.pause();
    toggle.replaceChildren(icon(plays ? "pause" : "play"));
    toggle.setAttribute("aria-label", plays ? "Pause both" : "Play both");
  };
  const inStep = () => {
    if (!node.open) return;
    const [first, second] = longer() === left ? [left, right] : [right, left];
    const drift = Math.abs(Math.min(first.currentTime, second.duration || 0) - second.currentTime);
    if (drift > DRIFT_S && !second.ended && !second.seeking) second.currentTime = first.currentTime;
    if (isPlaying && first.ended) {
      seek(0);
      play(true);
    }
    if (length() && document.activeElement !== bar) bar.value = first.currentTime / length();
    requestAnimationFrame(inStep);
  };
  bar.addEventListener("input", () => {
    isTouched = true;
    place = Number(bar.value);
    play(false);
    seek(place * length());
  });
  toggle.addEventListener("click", () => {
    isTouched = true;
    play(!isPlaying);
  });
  const side = (video, task) => el("figure", {}, video, el("figcaption", {}, el("p", {}, title(task)), el("p", { class: "note" }, `${task.model} · seed ${task.seed}`)));
  const node = dialog("Two videos in step", "compare", [
    el("div", { class: "sides" }, side(left, one), side(right, other)),
    el("div", { class: "bar" }, toggle, bar, iconButton("close", "Close", () => node.close())),
  ]);
  for (const [video, task] of [[left, one], [right, other]]) {
    mediaUrl(resultPath(task.task_id)).then((url) => {
      video.src = url;
    });
  }
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const ready = [left, right].map((video) => new Promise((resolve) => video.addEventListener("canplay", resolve, { once: true })));
  Promise.all(ready).then(() => (isTouched ? seek(place * length()) : play(!isCalm)));
  play(false);
  requestAnimationFrame(inStep);
}
