// The dialog that asks for the API key, once.

import { ask, sentence, useKey } from "./api.js";
import { el } from "./dom.js";
import { dialog } from "./toast.js";

let open = null;

/** Ask for the key until the service knows it. */
export function logIn() {
  open ??= new Promise((resolve) => show(resolve)).finally(() => (open = null));
  return open;
}

function show(resolve) {
  const input = el("input", { id: "key", type: "password", autocomplete: "current-password", required: true });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const form = el(
    "form",
    {},
    el("h2", {}, "API key"),
    el("p", { class: "note" }, "This service asks for a key. It is kept until you close the tab."),
    el("label", { htmlFor: "key" }, "Key"),
    input,
    error,
    el("div", { class: "actions" }, el("button", { class: "primary", type: "submit" }, "Go on")),
  );
  const node = dialog("API key", "login", [form], { isFirm: true });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    useKey(input.value.trim());
    try {
      await ask("/v1/tasks/queue/status");
    } catch (refused) {
      useKey("");
      error.textContent = refused.status === 401 ? "The service does not know this key." : sentence(refused);
      error.hidden = false;
      input.focus();
      return;
    }
    node.close();
    document.dispatchEvent(new Event("unlocked"));
    resolve();
  });
}
