// Pictures and videos of tasks. With an API key an element cannot ask for them itself, so they are fetched.

import { hasKey, root, send, taskPath } from "./api.js";

const MOST = 60;
/** Object URLs by path, the one used last at the end. */
const kept = new Map();

/** The address under which an element finds what lies at a path of the API. */
export async function mediaUrl(path) {
  if (!hasKey()) return root + path;
  const found = kept.get(path) ?? fetched(path);
  kept.delete(path);
  kept.set(path, found);
  found.catch(() => kept.delete(path));
  for (const oldest of kept.keys()) {
    if (kept.size <= MOST) break;
    kept.get(oldest).then(URL.revokeObjectURL, () => {});
    kept.delete(oldest);
  }
  return found;
}

async function fetched(path) {
  return URL.createObjectURL(await (await send(path)).blob());
}

export const resultPath = (id) => taskPath(id, "/result");
export const thumbnailPath = (id) => `/v1/videos/${encodeURIComponent(id)}/content?variant=thumbnail`;
export const inputPath = (id, field) => taskPath(id, `/input?field=${encodeURIComponent(field)}`);

/** Fetch a file of the API as a `File`. */
export async function fileAt(path, name) {
  const blob = await (await send(path)).blob();
  return new File([blob], name, { type: blob.type });
}

/** Have a picture show what lies at a path, once; a later call with the same path does nothing. */
export function showPicture(img, path) {
  if (img.dataset.path === path) return;
  img.dataset.path = path;
  mediaUrl(path).then((url) => {
    if (img.dataset.path === path) img.src = url;
  }, () => {});
}

/** Save a file that lies at a path of the API on the person's disk. */
export async function save(path, name) {
  const link = document.createElement("a");
  link.href = await mediaUrl(path);
  link.download = name;
  link.click();
}
