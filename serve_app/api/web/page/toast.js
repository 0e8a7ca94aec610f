// Short messages that come and go, and questions that want a yes.

import { el } from "./dom.js";

const SHOWN_MS = 5_000;

/** Show a sentence for a while. */
export function toast(text, { isError = false } = {}) {
  const node = el("p", { class: `toast ${isError ? "bad" : ""}` }, text);
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), SHOWN_MS);
}

/** Show a dialog, and take it away once it is closed; a firm one is closed by its buttons alone. */
export function dialog(heading, className, children, { isFirm = false } = {}) {
  const node = el("dialog", { class: className, "aria-label": heading }, ...children);
  node.addEventListener("close", () => node.remove());
  node.addEventListener("cancel", (event) => isFirm && event.target === node && event.preventDefault());
  node.addEventListener("click", (event) => !isFirm && event.target === node && node.close());
  document.body.append(node);
  node.showModal();
  return node;
}

/** Ask a question; the answer is true for `yes`. */
export function confirm(question, yes) {
  return new Promise((resolve) => {
    const answer = (value) => () => {
      resolve(value);
      node.close();
    };
    const node = dialog(
      question,
      "question",
      [
        el("p", {}, question),
        el(
          "div",
          { class: "actions" },
          el("button", { type: "button", on: { click: answer(false) } }, "No"),
          el("button", { type: "button", class: "primary danger", on: { click: answer(true) } }, yes),
        ),
      ],
    );
    node.addEventListener("close", () => resolve(false));
  });
}
