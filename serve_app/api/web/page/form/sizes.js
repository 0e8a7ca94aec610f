// Shape and resolution of the video, in place of two numbers.

import { el, segments } from "../dom.js";

const AUTO = "auto";

/** The two bars of shapes and tiers. A picture's own shape is offered while there is a picture. */
export class Sizes {
  #model = null;
  #ratio = null;
  #tier = null;
  #hasPicture = false;
  /** A size of an earlier video that no choice has. */
  #other = null;
  /** Whether a person has chosen: else another model brings its own. */
  #isChosen = false;

  constructor({ ratios, tiers, output }, onChange) {
    Object.assign(this, { ratios, tiers, output, onChange });
  }

  show(model, hasPicture) {
    const gotPicture = hasPicture && !this.#hasPicture;
    this.#model = model;
    this.#hasPicture = hasPicture;
    const { width, height } = model.defaults;
    const own = model.sizes.find((size) => size.width === width && size.height === height) ?? model.sizes[0];
    if (!this.#isChosen && this.#ratio !== AUTO) [this.#ratio, this.#tier] = [own.ratio, own.tier];
    if (!model.sizes.some((size) => size.tier === this.#tier)) this.#tier = own.tier;
    if (gotPicture) this.#ratio = AUTO;
    if (this.#ratio === null || (this.#ratio === AUTO && !hasPicture)) this.#ratio = own.ratio;
    if (this.#ratio !== AUTO && !this.#ofTier().some((size) => size.ratio === this.#ratio)) this.#ratio = own.ratio;
    this.#draw();
  }

  get value() {
    return this.#isChosen ? { ratio: this.#ratio, tier: this.#tier } : null;
  }

  set value({ ratio, tier }) {
    [this.#ratio, this.#tier, this.#isChosen] = [ratio, tier, true];
  }

  /** Choose the size of an earlier video. */
  use(width, height) {
    const found = this.#model.sizes.find((size) => size.width === width && size.height === height);
    this.#other = found ? null : { width, height };
    this.#isChosen = true;
    if (found) [this.#ratio, this.#tier] = [found.ratio, found.tier];
    this.#draw();
  }

  /** The fields of the request; none where the picture decides. */
  fields() {
    if (this.#other !== null) return this.#other;
    if (this.#ratio === AUTO) return {};
    const { width, height } = this.#chosen();
    return { width, height };
  }

  #ofTier() {
    return this.#model.sizes.filter((size) => size.tier === this.#tier);
  }

  #chosen() {
    return this.#ofTier().find((size) => size.ratio === this.#ratio) ?? this.#ofTier()[0];
  }

  #draw() {
    const shapes = this.#ofTier().map((size) => ({
      value: size.ratio,
      label: size.ratio,
      title: `${size.width} × ${size.height}`,
      extra: shape(size.width, size.height),
    }));
    const auto = { value: AUTO, label: "Picture’s", title: "The shape of the picture" };
    const chosen = this.#other === null ? this.#ratio : null;
    segments(this.ratios, "ratio", this.#hasPicture ? [auto, ...shapes] : shapes, chosen, (ratio) => {
      this.#set({ ratio });
    });
    const tiers = [...new Set(this.#model.sizes.map((size) => size.tier))];
    this.tiers.hidden = tiers.length < 2 || this.#ratio === AUTO;
    segments(this.tiers, "tier", tiers.map((tier) => ({ value: tier, label: tier })), this.#tier, (tier) => {
      this.#set({ tier });
      if (this.#ratio !== AUTO) this.#ratio = this.#chosen().ratio;
    });
    this.#tell();
  }

  #set({ ratio = this.#ratio, tier = this.#tier }) {
    const isOtherTier = tier !== this.#tier;
    [this.#ratio, this.#tier, this.#other, this.#isChosen] = [ratio, tier, null, true];
    if (isOtherTier) this.#draw();
    this.tiers.hidden = this.#ratio === AUTO || new Set(this.#model.sizes.map((size) => size.tier)).size < 2;
    this.#tell();
    this.onChange();
  }

  #tell() {
    const { width, height } = this.fields();
    this.output.textContent = width ? `${width} × ${height}` : "as the picture";
  }
}

function shape(width, height) {
  const node = el("i", { class: "shape", "aria-hidden": "true" });
  const scale = 13 / Math.max(width, height);
  node.style.setProperty("--w", `${Math.round(width * scale)}px`);
  node.style.setProperty("--h", `${Math.round(height * scale)}px`);
  return node;
}
