// Handles the mouse, pens, touch and arrow keys on the picture.

import { byId } from "./dom.js";
import * as stage from "./stage.js";

const PAN_STEP_PX = 40;
const WINDOW_STEP = 8;
const WHEEL_STEP = 0.0015;

const surface = byId("surface");
const pointers = new Map(); // The last position, by pointer id.

/** Return the tool of the main button: `window` or `pan`. */
function tool() {
  return document.querySelector("input[name=tool]:checked").value;
}

/** Return an event's position in pixels of the surface. */
function positionOf(event) {
  const frame = surface.getBoundingClientRect();
  return { x: event.clientX - frame.left, y: event.clientY - frame.top };
}

surface.addEventListener("pointerdown", (event) => {
  if (!stage.hasPicture()) return;
  surface.setPointerCapture(event.pointerId);
  const isPan = event.button !== 0 || event.shiftKey || tool() === "pan";
  pointers.set(event.pointerId, { ...positionOf(event), drags: isPan ? "pan" : "window" });
  surface.dataset.drags = isPan ? "pan" : "window";
});

surface.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) return;
  const now = positionOf(event);
  const [dx, dy] = [now.x - last.x, now.y - last.y];
  if (pointers.size === 2) pinch(event.pointerId, last, now);
  else if (last.drags === "pan") stage.pan(dx, dy);
  else stage.changeWindow(dx, dy);
  pointers.set(event.pointerId, { ...last, ...now });
});

for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
  surface.addEventListener(end, (event) => {
    pointers.delete(event.pointerId);
    if (pointers.size === 0) delete surface.dataset.drags;
  });
}

/** Zoom by the distance of two pointers, and pan by their middle. */
function pinch(id, last, now) {
  const other = [...pointers].find(([otherId]) => otherId !== id)[1];
  const distanceTo = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
  const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
  stage.pan((now.x - last.x) / 2, (now.y - last.y) / 2);
  stage.zoom(distanceTo(now) / distanceTo(last), middle);
}

surface.addEventListener(
  "wheel",
  (event) => {
    if (!stage.hasPicture()) return;
    event.preventDefault();
    const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * 16 : event.deltaY;
    stage.zoom(Math.exp(-pixels * WHEEL_STEP), positionOf(event));
  },
  { passive: false },
);

surface.addEventListener("dblclick", () => stage.toggleSize());
surface.addEventListener("contextmenu", (event) => event.preventDefault());

surface.addEventListener("keydown", (event) => {
  const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
    event.key
  ] ?? [0, 0];
  if ((!x && !y) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  if (event.shiftKey) stage.changeWindow(x * WINDOW_STEP, y * WINDOW_STEP);
  else stage.pan(-x * PAN_STEP_PX, -y * PAN_STEP_PX);
});
