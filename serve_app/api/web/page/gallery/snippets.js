// A request as one would send it from a shell or from Python.

import { isKeyed, root } from "../api.js";

const address = () => location.origin + root;

/** The request as a curl command. */
export function asCurl(settings) {
  const quoted = JSON.stringify(settings).replaceAll("'", "'\\''");
  const key = isKeyed ? ` \\\n  -H "Authorization: Bearer $WAN_SERVE_KEY"` : "";
  return `curl -X POST ${address()}/v1/tasks/video${key} \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
}

/** The request as a Python program, which waits for the video and saves it. */
export function asPython(settings) {
  const key = isKeyed ? `import os\n` : "";
  const headers = isKeyed ? `, headers={"Authorization": f"Bearer {os.environ['WAN_SERVE_KEY']}"}` : "";
  const fields = Object.entries(settings).map(([name, value]) => `    ${JSON.stringify(name)}: ${literal(value)},\n`);
  return (
    `${key}import httpx\n\n` +
    `service = httpx.Client(base_url=${JSON.stringify(address())}${headers}, timeout=700)\n` +
    `request = {\n${fields.join("")}}\n` +
    `task = service.post("/v1/tasks/video", params={"wait": 600}, json=request).raise_for_status().json()\n` +
    `video = service.get(f"/v1/tasks/{task['task_id']}/result").raise_for_status()\n` +
    `open("video.mp4", "wb").write(video.content)\n`
  );
}

/** A JSON value as Python writes it; its texts are the same in both. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, part]) => `${JSON.stringify(name)}: ${literal(part)}`).join(", ")}}`;
  return JSON.stringify(value);
}

/** Put text on the clipboard; where the browser does not allow that, show it to be copied by hand. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no secure context, or not allowed
  }
}
