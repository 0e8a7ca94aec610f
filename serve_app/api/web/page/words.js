// Times, sizes and states in words.

/** Seconds as people say them: `4 s`, `1:05`, `2:03:00`. */
export function duration(seconds) {
  const whole = Math.max(Math.round(seconds), 0);
  if (whole < 60) return `${whole} s`;
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (parts[0] === 0) parts.shift();
  return parts.map((part, at) => (at === 0 ? String(part) : String(part).padStart(2, "0"))).join(":");
}

/** A length of video, to a tenth of a second. */
export const length = (task) => `${Math.round((task.num_frames / task.fps) * 10) / 10} s`;

/** When something was, as far as that is of interest: the time today, else the day too. */
export function moment(text) {
  const then = new Date(text);
  const isToday = then.toDateString() === new Date().toDateString();
  const time = { hour: "2-digit", minute: "2-digit" };
  return then.toLocaleString([], isToday ? time : { ...time, month: "short", day: "numeric" });
}

/** A number of things: `1 video`, `3 videos`. */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

const STATES = {
  submitted: "Waiting",
  running: "Running",
  succeed: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};

/** A task's state in a word. */
export const state = (task) => STATES[task.status];

export const isWaiting = (task) => task.status === "submitted";
export const isRunning = (task) => task.status === "running";
export const isUnended = (task) => isWaiting(task) || isRunning(task);
export const isDone = (task) => task.status === "succeed";

/** What a task is called: its prompt, else what it was made from. */
export const title = (task) =>
  task.prompt || (task.fragment_prompts ?? []).join(" / ") || (task.inputs.length ? "From a picture" : task.task_id);
