// Prompts to begin with, for models that bring none of their own.

export const EXAMPLES = [
  "A white cat in sunglasses sits on a surfboard at the beach, gentle waves, summer light, a close shot",
  "A paper boat drifts down a rain-filled gutter at dusk, street lamps mirrored in the water, slow tracking shot",
  "A glassblower turns a glowing vase in a dark workshop, sparks drift through the air, shallow depth of field",
];
