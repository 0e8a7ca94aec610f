// A notice of the system when a video is done and the page is not looked at.

import { iconButton } from "./dom.js";
import { tasks } from "./tasks.js";
import { toast } from "./toast.js";
import { isDone, title } from "./words.js";

/** The button that asks for leave to give notice; null where the browser has no notices. */
export function noticeButton() {
  if (!("Notification" in window) || !window.isSecureContext) return null;
  const show = () => {
    const isOn = Notification.permission === "granted";
    button.hidden = Notification.permission === "denied";
    button.setAttribute("aria-pressed", String(isOn));
    button.title = isOn ? "You are told when a video is done" : "Tell me when a video is done";
    button.setAttribute("aria-label", button.title);
  };
  const button = iconButton("bell", "Tell me when a video is done", async () => {
    if ((await Notification.requestPermission()) === "granted") toast("You are told when a video is done and this page is not in sight.");
    show();
  });
  show();
  return button;
}

/** Give notice of each end from now on; on the page itself a sentence does. */
export function tellOfEnds() {
  tasks.addEventListener("ended", ({ detail: task }) => {
    const text = isDone(task) ? "Done" : (task.error?.message ?? null);
    if (text === null) return; // whoever cancelled it knows
    if (!document.hidden) toast(isDone(task) ? `Done: ${title(task).slice(0, 80)}` : text, { isError: !isDone(task) });
    else if ("Notification" in window && Notification.permission === "granted") {
      new Notification(text, { body: title(task).slice(0, 200), tag: task.task_id });
    }
  });
}
