// Requests to the service, with the API key where it wants one, and its refusals.

export const root = document.documentElement.dataset.root;
export const isKeyed = document.documentElement.dataset.keyed === "true";

const KEPT = "wan-serve-key";
let key = isKeyed ? (sessionStorage.getItem(KEPT) ?? "") : "";

/** Use this key from now on; it is kept until the tab is closed. */
export function useKey(text) {
  key = text;
  if (text) sessionStorage.setItem(KEPT, text);
  else sessionStorage.removeItem(KEPT);
}

export const hasKey = () => key !== "";

/** Headers that every request carries. */
export const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

/** An answer that says no: a sentence, a stable word, and perhaps the field that it is about. */
export class Refusal extends Error {
  constructor(status, { detail, code, field } = {}) {
    super(detail || `The service answered ${status}.`);
    this.status = status;
    this.code = code ?? "";
    this.field = field ?? null;
  }
}

/** Send a request, and return the answer. Throws `Refusal`, or `TypeError` where nothing answers. */
export async function send(path, { method = "GET", json, form, headers = {}, signal } = {}) {
  const all = { ...authorization(), ...headers };
  if (json !== undefined) all["Content-Type"] = "application/json";
  const body = json === undefined ? form : JSON.stringify(json);
  const answer = await fetch(root + path, { method, headers: all, body, signal });
  if (answer.ok) return answer;
  const refused = new Refusal(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 401) document.dispatchEvent(new Event("locked"));
  throw refused;
}

/** Send a request, and return the JSON document of the answer. */
export const ask = async (path, options) => (await send(path, options)).json();

/** The path of a task, and of what is below it. */
export const taskPath = (id, rest = "") => `/v1/tasks/${encodeURIComponent(id)}${rest}`;

/** Say what went wrong, as a sentence. */
export const sentence = (error) =>
  error instanceof Refusal ? error.message : "The service does not answer; try again in a moment.";
