// Light or dark: as the system has it, unless one chooses.

import { icon, iconButton } from "./dom.js";

const KEPT = "wan-serve-theme";
const ORDER = ["auto", "light", "dark"];
const ICONS = { auto: "auto", light: "sun", dark: "moon" };
const NAMES = { auto: "Colours of the system", light: "Light colours", dark: "Dark colours" };

/** The button that goes through the themes. */
export function themeButton() {
  let now = localStorage.getItem(KEPT) ?? "auto";
  const button = iconButton(ICONS[now] ?? "auto", "", () => {
    now = ORDER[(ORDER.indexOf(now) + 1) % ORDER.length];
    localStorage.setItem(KEPT, now);
    apply();
  });
  const apply = () => {
    document.documentElement.dataset.theme = now;
    button.replaceChildren(icon(ICONS[now] ?? "auto"));
    button.title = NAMES[now] ?? NAMES.auto;
    button.setAttribute("aria-label", button.title);
  };
  apply();
  return button;
}
