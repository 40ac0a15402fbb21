// Draws the findings' boxes on the picture.

import { colourOf } from "./colours.js";
import { byId, svg } from "./dom.js";
import { formatScore, t } from "./i18n.js";
import { LABEL_HEIGHT_PX, placeLabels } from "./labels.js";

const TIGHT_PX = 520; // Below this width labels are numbers, explained by the list.

const overlay = byId("boxes");
let drawn = []; // The findings that are drawn, each with its box in screen pixels.
const ruler = document.createElement("canvas").getContext("2d");

/**
 * Draw the boxes of `findings` (`{id, number, index, slug, score, bbox}`) where `view` puts them.
 * `active` is the id of the highlighted finding, or null.
 */
export function drawBoxes(findings, active, view, picture) {
  const space = overlay.getBoundingClientRect();
  const screen = findings.map(({ bbox: [xMin, yMin, xMax, yMax] }) => ({
    left: view.x + xMin * picture.width * view.scale,
    top: view.y + yMin * picture.height * view.scale,
    right: view.x + xMax * picture.width * view.scale,
    bottom: view.y + yMax * picture.height * view.scale,
  }));
  drawn = findings.map((finding, i) => ({ id: finding.id, box: screen[i] }));
  ruler.font = `600 12px ${getComputedStyle(overlay).fontFamily}`;
  const texts = findings.map((finding) => {
    const short = String(finding.number);
    const isTight = space.width < TIGHT_PX && finding.id !== active;
    return [isTight ? short : longText(finding), short];
  });
  const sizes = texts.map((pair) => pair.map((text) => Math.ceil(ruler.measureText(text).width)));
  // The label of the highlighted finding is placed first, so that it is never shortened.
  const order = findings.map((_, i) => i).sort((a, b) => rank(a) - rank(b));
  function rank(i) {
    return findings[i].id === active ? -1 : i;
  }
  const labels = [];
  placeLabels(order.map((i) => screen[i]), order.map((i) => sizes[i]), space).forEach((label, at) => {
    labels[order[at]] = label;
  });
  // Labels are above all frames; the highlighted finding is on top in both layers.
  const layers = [frame, plate].map((make) => {
    const groups = findings.map((finding, i) => {
      const group = make(screen[i], labels[i], texts[i]);
      group.classList.toggle("active", finding.id === active);
      group.dataset.id = finding.id;
      group.dataset.class = finding.slug;
      group.style.setProperty("--colour", colourOf(finding.index));
      return group;
    });
    return groups.sort((a, b) => isActive(a) - isActive(b));
  });
  overlay.replaceChildren(...layers.flat());
  overlay.classList.toggle("has-active", findings.some((finding) => finding.id === active));
}

/** Return the id of the smallest box at a point of the screen, or null. */
export function boxAt({ x, y }) {
  const area = ({ box }) => (box.right - box.left) * (box.bottom - box.top);
  const under = drawn.filter(
    ({ box }) => x >= box.left && x <= box.right && y >= box.top && y <= box.bottom,
  );
  return under.sort((a, b) => area(a) - area(b))[0]?.id ?? null;
}

function longText(finding) {
  return `${finding.number}  ${t(`finding.${finding.slug}`)}  ${formatScore(finding.score)}`;
}

function isActive(group) {
  return group.classList.contains("active") ? 1 : 0;
}

function frame(box) {
  const size = {
    x: box.left,
    y: box.top,
    width: Math.max(1, box.right - box.left),
    height: Math.max(1, box.bottom - box.top),
    rx: 2,
  };
  return svg(
    "g",
    { class: "box" },
    svg("rect", { ...size, class: "halo" }),
    svg("rect", { ...size, class: "line" }),
  );
}

function plate(_box, label, [long, short]) {
  const size = { x: label.left, y: label.top, width: label.width, height: LABEL_HEIGHT_PX, rx: 3 };
  return svg(
    "g",
    { class: "label" },
    svg("rect", size),
    svg("text", { x: label.left + 6, y: label.top + 14 }, label.isShort ? short : long),
  );
}
