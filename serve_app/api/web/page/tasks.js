// What the page knows of the tasks: from the list of the service, and from the stream of changes.

import { ask, send, taskPath } from "./api.js";
import { isRunning, isUnended, isWaiting } from "./words.js";

const PAGE = 60;
const MOST = 500; // that the service sends at once
const others = "BroadcastChannel" in window ? new BroadcastChannel("wan-serve") : null;

/** All tasks that the page knows, by id. Tells of a change by the event `change`, of a new state by `moved`, of an end by `ended`. */
class Tasks extends EventTarget {
  #known = new Map();
  #heardAt = new Map();
  #cursor = null;
  #isTelling = false;
  hasMore = false;
  isLoaded = false;

  /** Take a status. One from the list is older than an event that came after it was asked for. */
  put(task, askedAt = Infinity) {
    if ((this.#heardAt.get(task.task_id) ?? 0) > askedAt) return;
    const before = this.#known.get(task.task_id);
    this.#known.set(task.task_id, { ...task, seenAt: Date.now() });
    this.#heardAt.set(task.task_id, askedAt === Infinity ? performance.now() : askedAt);
    if (before?.status !== task.status && askedAt === Infinity) this.dispatchEvent(new Event("moved"));
    if (before && isUnended(before) && !isUnended(task)) {
      this.dispatchEvent(new CustomEvent("ended", { detail: task }));
    }
    this.#tell();
  }

  get(id) {
    return this.#known.get(id);
  }

  /** Forget a task, here and in this browser's other tabs. */
  remove(id, { tell = true } = {}) {
    if (!this.#known.delete(id)) return;
    this.#heardAt.delete(id);
    if (tell) others?.postMessage(id);
    this.#tell();
  }

  all() {
    return [...this.#known.values()].sort((one, other) => (one.created_at < other.created_at ? 1 : -1));
  }

  /** Those that run, then those that wait in the order in which they will be run. */
  unended() {
    const place = (task) => (isRunning(task) ? 0 : (task.queue_position ?? 1e9));
    return this.all()
      .filter(isUnended)
      .sort((one, other) => place(one) - place(other) || (one.created_at < other.created_at ? -1 : 1));
  }

  /** Ask for the newest tasks; those that were deleted meanwhile go. */
  async refresh() {
    const askedAt = performance.now();
    const page = await ask(`/v1/tasks?limit=${PAGE}`);
    const ids = new Set(page.tasks.map((task) => task.task_id));
    const oldest = page.has_more ? page.tasks.at(-1).created_at : "";
    for (const task of this.#known.values()) {
      const isOlder = (this.#heardAt.get(task.task_id) ?? 0) < askedAt;
      if (!ids.has(task.task_id) && task.created_at > oldest && isOlder) this.remove(task.task_id);
    }
    this.#take(page, askedAt, this.#cursor === null);
    await this.#allUnended();
    this.isLoaded = true;
    this.#tell();
  }

  /** Ask for all that has not ended, however much waits: the queue is shown whole. */
  async #allUnended() {
    for (let after = ""; ; ) {
      const askedAt = performance.now();
      const page = await ask(`/v1/tasks?status=submitted,running&limit=${MOST}${after}`);
      this.#take(page, askedAt, false);
      if (!page.has_more) return;
      after = `&after=${encodeURIComponent(page.tasks.at(-1).task_id)}`;
    }
  }

  /** Ask for older tasks. */
  async more() {
    if (!this.hasMore) return;
    const askedAt = performance.now();
    this.hasMore = false; // until the answer says so again
    this.#take(await ask(`/v1/tasks?limit=${PAGE}&after=${encodeURIComponent(this.#cursor)}`), askedAt, true);
  }

  /** Ask for the places of those that wait: these move without a change of the task itself. */
  async places() {
    if (![...this.#known.values()].some(isWaiting)) return;
    const askedAt = performance.now();
    const { tasks } = await ask("/v1/tasks?status=submitted,running&limit=200");
    for (const task of tasks) this.put(task, askedAt);
  }

  #take(page, askedAt, movesCursor) {
    for (const task of page.tasks) this.put(task, askedAt);
    if (movesCursor) {
      this.#cursor = page.tasks.at(-1)?.task_id ?? this.#cursor;
      this.hasMore = page.has_more;
    }
    this.#tell();
  }

  #tell() {
    if (this.#isTelling) return;
    this.#isTelling = true;
    setTimeout(() => {
      this.#isTelling = false;
      this.dispatchEvent(new Event("change"));
    }, 16);
  }
}

export const tasks = new Tasks();
others?.addEventListener("message", ({ data }) => tasks.remove(data, { tell: false }));

/** Cancel a task that has not ended. */
export async function cancel(id) {
  await send(taskPath(id), { method: "DELETE" });
  tasks.put(await ask(taskPath(id, "/status")));
}

/** Put a waiting task before the others. */
export async function putNext(id) {
  tasks.put(await ask(taskPath(id, "/next"), { method: "POST" }));
  await tasks.places();
}

/** Have a running task end with what it has made. */
export async function finishEarly(id) {
  tasks.put(await ask(taskPath(id, "/finish_early"), { method: "POST" }));
}

/** Delete a task and its video. */
export async function forget(id) {
  await send(`/v1/videos/${encodeURIComponent(id)}`, { method: "DELETE" });
  tasks.remove(id);
}

/** Cancel all that waits. */
export async function clearWaiting() {
  await send("/v1/tasks/all/waiting", { method: "DELETE" });
  await tasks.refresh();
}
