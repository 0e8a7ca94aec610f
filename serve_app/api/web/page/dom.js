// Elements of the page, built without markup: whatever is text stays text.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; `props` are properties where the element has them, else attributes. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") node.className = value;
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "on") {
      for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    } else if (name in node) node[name] = value;
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

/** Set an element's text, and touch nothing where it is that already. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const PATHS = {
  close: "M6 6l12 12M18 6L6 18",
  next: "M12 20V5M6 11l6-6 6 6",
  pause: "M8 5v14M16 5v14",
  play: "M8 5l11 7-11 7z",
  lock: "M7 11V8a5 5 0 0 1 10 0v3M5 11h14v9H5z",
  unlock: "M7 11V8a5 5 0 0 1 9.6-2M5 11h14v9H5z",
  plus: "M12 5v14M5 12h14",
  bell: "M6 16V11a6 6 0 0 1 12 0v5l1.5 2h-15zM10 21h4",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  auto: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M12 3v18",
  help: "M9 9a3 3 0 1 1 4.2 2.7c-.8.4-1.2 1-1.2 1.8v.5M12 17.5v.5",
  key: "M14 10a4 4 0 1 0-3.5 4L12 12.5M13 11l7 7M17 15l2-2",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M15 9h.01M9 15h.01",
  reuse: "M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5",
  compare: "M4 5h7v14H4zM13 5h7v14h-7z",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15 9h.01",
  film: "M4 5h16v14H4zM8 5v14M16 5v14M4 9.7h4M4 14.3h4M16 9.7h4M16 14.3h4",
  extend: "M4 12h14M13 7l5 5-5 5M21 5v14",
  code: "M9 7l-5 5 5 5M15 7l5 5-5 5",
  done: "M5 12.5l4.5 4.5L19 7.5",
};

/** Make one of the page's icons. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** Make a button with an icon alone; `label` is its name and its tip. */
export function iconButton(name, label, onClick, more = {}) {
  const { class: extra = "", ...rest } = more;
  const props = { type: "button", class: `icon ${extra}`, "aria-label": label, title: label, ...rest };
  return el("button", { ...props, on: { click: onClick } }, icon(name));
}

/** Bring a container's children in line with `items`, in their order, each kept by its key. */
export function keyed(container, items, keyOf, create, update) {
  const there = new Map([...container.children].map((node) => [node.dataset.key, node]));
  let place = container.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let node = there.get(key);
    if (node === undefined) {
      node = create(item);
      node.dataset.key = key;
    }
    there.delete(key);
    if (node === place) place = place.nextElementSibling;
    else container.insertBefore(node, place);
    update(node, item);
  }
  for (const node of there.values()) node.remove();
}

/** Make a group of radio buttons that looks like one bar; `options` are `{value, label, title}`. */
export function segments(container, name, options, chosen, onChange) {
  container.replaceChildren(
    ...options.map(({ value, label, title, extra }) =>
      el(
        "label",
        { title: title ?? "" },
        el("input", {
          type: "radio",
          name,
          value,
          checked: value === chosen,
          on: { change: () => onChange(value) },
        }),
        el("span", {}, extra ?? "", label),
      ),
    ),
  );
}
