// The settings in a video's file: the service writes them into its comment, as JSON.

const MOST_BYTES = 64 * 2 ** 20;
const END_BYTES = 2 ** 20;
const MARK = '{"wan_serve":';

/** Return the settings of the request that made a file, or null for one that has none. */
export async function settingsOf(file) {
  const parts = file.size <= MOST_BYTES ? [file] : [file.slice(0, END_BYTES), file.slice(-END_BYTES)];
  for (const part of parts) {
    const text = new TextDecoder().decode(await part.arrayBuffer());
    const found = objectAt(text, text.indexOf(MARK));
    if (found !== null) return found;
  }
  return null;
}

function objectAt(text, start) {
  if (start < 0) return null;
  let depth = 0;
  let isInText = false;
  for (let at = start; at < text.length; at++) {
    const letter = text[at];
    if (isInText && letter === "\\") at++;
    else if (letter === '"') isInText = !isInText;
    else if (!isInText && letter === "{") depth++;
    else if (!isInText && letter === "}" && --depth === 0) return parsed(text.slice(start, at + 1));
  }
  return null;
}

function parsed(text) {
  try {
    const settings = JSON.parse(text).wan_serve;
    return typeof settings === "object" ? settings : null;
  } catch {
    return null;
  }
}
