// Refusals of a submit, shown at the field that they are about.

const FIELDS = {
  image_file: "image_path",
  last_frame_file: "last_frame_path",
  video_file: "video",
  mask_file: "mask",
  reference_files: "reference_images",
  width: "size",
  height: "size",
  aspect_ratio: "size",
  resolution: "size",
  num_frames: "video_duration",
  lora_name: "loras",
  fragment_prompts: "prompt",
};

/** Show a refusal at its field, or above the button where the form has no such field. */
export function showError(form, error, sentence, before = "") {
  const name = (error.field ?? "").replace(/[[.].*$/, "");
  const wanted = error.code === "image_unreadable" ? "image_path" : (FIELDS[name] ?? name);
  const place = wanted && form.querySelector(`[data-field="${CSS.escape(wanted)}"]:not([hidden])`);
  const text = before + sentence.replace(/^[\w.[\]]+: (.)/, (_, first) => first.toUpperCase());
  const message = place?.querySelector(".error");
  if (!message) {
    const general = form.querySelector("#form-error");
    general.textContent = before + sentence;
    general.hidden = false;
    return;
  }
  message.textContent = text;
  message.hidden = false;
  message.id ||= `error-${wanted}`;
  place.classList.add("wrong");
  place.closest("details")?.setAttribute("open", "");
  for (const input of place.querySelectorAll("input, textarea, select")) {
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", message.id);
  }
  place.querySelector("input, textarea, select, button")?.focus({ preventScroll: true });
  place.scrollIntoView({ block: "nearest" });
}

/** Take all errors away, those of one field, or of the whole form. */
export function clearErrors(within) {
  for (const message of within.querySelectorAll(".error")) message.hidden = true;
  for (const place of [within, ...within.querySelectorAll(".wrong")]) place.classList.remove("wrong");
  for (const input of within.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  }
}
