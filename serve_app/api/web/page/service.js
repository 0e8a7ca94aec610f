// The state of the service: replicas, and whether its queue is paused. Asked for while somebody looks.

import { ask, send } from "./api.js";
import { tasks } from "./tasks.js";

const BUSY_MS = 4_000;
const CALM_MS = 15_000;
const SOON_MS = 700; // the service looks at its queue twice a second

/** What was heard of the service last. Tells of news by the event `change`. */
class Service extends EventTarget {
  status = null;
  queue = null;
  #timer = 0;
  #soon = 0;

  /** Ask now, and from now on as often as there is something to see. */
  async look() {
    clearTimeout(this.#timer);
    clearTimeout(this.#soon);
    this.#soon = 0;
    if (!document.hidden) {
      try {
        [this.status, this.queue] = await Promise.all([
          ask("/v1/service/status"),
          ask("/v1/tasks/queue/status"),
          tasks.places(),
        ]);
        this.dispatchEvent(new Event("change"));
      } catch {
        // the line at the top says that nothing answers
      }
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.look(), tasks.unended().length ? BUSY_MS : CALM_MS);
  }

  /** Ask in a moment: what was heard just now has moved the places of others. */
  lookSoon() {
    this.#soon ||= setTimeout(() => this.look(), SOON_MS);
  }

  /** Begin none of what waits, or go on. */
  async pause(isPaused) {
    await send(`/v1/tasks/queue/${isPaused ? "pause" : "resume"}`, { method: "POST" });
    await this.look();
  }
}

export const service = new Service();
