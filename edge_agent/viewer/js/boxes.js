// The findings' boxes on the picture.

import { colourOf } from "./colours.js";
import { byId, svg } from "./dom.js";
import { score, t } from "./i18n.js";
import { LABEL_HEIGHT_PX, placed } from "./labels.js";

const overlay = byId("boxes");
let drawn = []; // The findings on the screen, each with its box there.
const ruler = document.createElement("canvas").getContext("2d");

/**
 * Draw the boxes of `findings` (`{id, number, index, slug, score, bbox}`) where `view` puts them.
 * `active` is the id of the one that is pointed out, or null.
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
  const texts = findings.map((finding) => [longText(finding), String(finding.number)]);
  const sizes = texts.map((pair) => pair.map((text) => Math.ceil(ruler.measureText(text).width)));
  // The one that is pointed out is placed first: its label is never cut short by others.
  const order = findings.map((_, i) => i).sort((a, b) => rank(a) - rank(b));
  function rank(i) {
    return findings[i].id === active ? -1 : i;
  }
  const labels = [];
  placed(order.map((i) => screen[i]), order.map((i) => sizes[i]), space).forEach((label, at) => {
    labels[order[at]] = label;
  });
  const shapes = findings.map((finding, i) => shape(finding, screen[i], labels[i], texts[i], active));
  overlay.replaceChildren(...shapes.sort((a, b) => isActive(a) - isActive(b)));
  overlay.classList.toggle("has-active", active !== null && findings.length > 0);
}

/** The id of the smallest box under a point of the screen, or null. */
export function boxAt({ x, y }) {
  const area = ({ box }) => (box.right - box.left) * (box.bottom - box.top);
  const under = drawn.filter(
    ({ box }) => x >= box.left && x <= box.right && y >= box.top && y <= box.bottom,
  );
  return under.sort((a, b) => area(a) - area(b))[0]?.id ?? null;
}

function longText(finding) {
  return `${finding.number}  ${t(`finding.${finding.slug}`)}  ${score(finding.score)}`;
}

function isActive(group) {
  return group.classList.contains("active") ? 1 : 0;
}

function shape(finding, box, label, [long, short], active) {
  const frame = {
    x: box.left,
    y: box.top,
    width: Math.max(1, box.right - box.left),
    height: Math.max(1, box.bottom - box.top),
    rx: 2,
  };
  const group = svg(
    "g",
    {
      class: finding.id === active ? "box active" : "box",
      "data-id": finding.id,
      "data-class": finding.slug,
    },
    svg("rect", { ...frame, class: "halo" }),
    svg("rect", { ...frame, class: "line" }),
    svg("rect", {
      class: "plate",
      x: label.left,
      y: label.top,
      width: label.width,
      height: LABEL_HEIGHT_PX,
      rx: 3,
    }),
    svg("text", { x: label.left + 6, y: label.top + 14 }, label.isShort ? short : long),
  );
  group.style.setProperty("--colour", colourOf(finding.index));
  return group;
}
