// What runs where: a dot for each replica.

import { el, keyed, setText } from "../dom.js";
import { service } from "../service.js";

const WORDS = { READY: "ready", BUSY: "busy", STARTING: "loading its model", DRAINING: "ending", SETUP_FAILED: "failed to load", POISONED: "being replaced" };

/** Show the replicas in a list, from now on. */
export function showReplicas(list) {
  service.addEventListener("change", () => {
    const replicas = Object.entries(service.status.models).flatMap(([model, line]) =>
      line.devices.map((device) => ({ model, ...device })),
    );
    keyed(list, replicas, (replica) => replica.replica, create, update);
    if (!replicas.length) list.replaceChildren(el("li", { class: "none" }, "No replica yet"));
  });
}

const create = () => el("li", {}, el("i", { "aria-hidden": "true" }), el("span", {}));

function update(node, replica) {
  const health = String(replica.health).toUpperCase();
  const word = WORDS[health] ?? health.toLowerCase();
  const ranks = replica.ranks > 1 ? `${replica.ranks} × ${replica.device}` : replica.device;
  node.dataset.health = health;
  setText(node.querySelector("span"), `${replica.model} · ${ranks}`);
  node.title = `${replica.replica}: ${word}${replica.reason ? `. ${replica.reason}` : ""}`;
  node.setAttribute("aria-label", `${replica.model} on ${ranks}: ${word}`);
}
