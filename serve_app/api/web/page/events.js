// The one stream of all task changes, which comes back after every break.

import { authorization, root } from "./api.js";

const SILENCE_MS = 40_000; // the service sends a line every 15 s
const LONGEST_PAUSE_MS = 8_000;

/** Read the stream until the page goes; `onTask` gets each status, `onState` "live" or "lost". */
export function follow(onTask, onState) {
  let last = "";
  let pause = 500;
  let heard = Date.now();
  let connection = new AbortController();
  let wake = () => {};

  const check = () => {
    if (Date.now() - heard > SILENCE_MS) connection.abort();
    wake();
  };
  // A laptop that was closed wakes up here: the timer is late, and the stream is long dead.
  setInterval(() => Date.now() - heard > SILENCE_MS && connection.abort(), 5_000);
  addEventListener("online", check);
  document.addEventListener("visibilitychange", () => document.hidden || check());
  document.addEventListener("unlocked", check);

  const read = async () => {
    heard = Date.now();
    connection = new AbortController();
    const headers = { ...authorization(), ...(last ? { "Last-Event-ID": last } : {}) };
    const answer = await fetch(`${root}/v1/events`, { headers, signal: connection.signal });
    if (answer.status === 401) document.dispatchEvent(new Event("locked"));
    if (!answer.ok) throw new Error(String(answer.status));
    onState("live");
    pause = 500;
    const parser = new EventParser((id, data) => {
      last = id || last;
      onTask(JSON.parse(data));
    });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard = Date.now();
      parser.push(value);
    }
  };

  (async () => {
    for (;;) {
      await read().catch(() => {});
      onState("lost");
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, pause);
      });
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  })();
}

/** The lines of `text/event-stream`, put together to events. */
export class EventParser {
  #rest = "";
  #id = "";
  #data = [];

  constructor(onEvent) {
    this.onEvent = onEvent;
  }

  /** Take the next piece of the stream, which may end anywhere. */
  push(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) this.#take(line);
  }

  #take(line) {
    if (line === "") {
      if (this.#data.length) this.onEvent(this.#id, this.#data.join("\n"));
      this.#data = [];
    } else if (line.startsWith("id: ")) this.#id = line.slice(4);
    else if (line.startsWith("data: ")) this.#data.push(line.slice(6));
  }
}
