// One colour per catalogue index, the same as in the overlays that the agent draws.

const COLOURS = [
  "rgb(255 80 80)",
  "rgb(255 165 0)",
  "rgb(255 235 0)",
  "rgb(170 255 0)",
  "rgb(60 220 90)",
  "rgb(0 230 200)",
  "rgb(60 215 255)",
  "rgb(60 150 255)",
  "rgb(200 90 255)",
  "rgb(255 120 255)",
  "rgb(255 105 180)",
  "rgb(255 200 130)",
  "rgb(160 255 220)",
  "rgb(255 160 160)",
];

/** Return the colour of a kind of finding. */
export function colourOf(index) {
  return COLOURS[index % COLOURS.length];
}
