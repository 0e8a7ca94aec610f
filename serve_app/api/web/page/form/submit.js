// Requests made of what the form holds, and sent so that a lost answer makes no second video.

import { Refusal, ask } from "../api.js";

const TRIES = 6;

/** Send a request: `fields` as JSON, or with its files as a form. Returns the service's answer. */
export async function submit(fields, uploads, path = "/v1/tasks/video") {
  const headers = { "Idempotency-Key": randomKey() };
  const body = uploads.length ? { form: asForm(fields, uploads) } : { json: fields };
  const at = uploads.length && path === "/v1/tasks/video" ? `${path}/form` : path;
  for (let tried = 1; ; tried++) {
    try {
      return await ask(at, { method: "POST", headers, ...body });
    } catch (error) {
      const isAway = !(error instanceof Refusal) || (error.status === 503 && error.code !== "draining");
      if (!isAway || tried === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 400 * 2 ** tried));
    }
  }
}

function asForm(fields, uploads) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  for (const [name, file] of uploads) form.append(name, file, file.name);
  return form;
}

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is for https alone
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
