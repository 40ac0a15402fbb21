// The picture: drawn on a canvas, windowed, zoomed and moved.

import { byId } from "./dom.js";
import { whole, t } from "./i18n.js";
import * as views from "./view.js";

const surface = byId("surface");
const canvas = byId("canvas");
const context = canvas.getContext("2d", { alpha: false });
const windowText = byId("window-text");
const zoomText = byId("zoom-text");

let source = null; // A canvas in the picture's own size that holds the windowed pixels.
let greys = null; // Uint8Array, one grey value per pixel.
let coloured = null; // ImageData that the table is applied into.
let view = { scale: 1, x: 0, y: 0 };
let isFitted = true;
let greyWindow = { ...views.FULL_WINDOW };
let isInverted = false;
let isStale = { pixels: false, frame: 0 };
const listeners = new Set();

/** Call `listener(view, picture)` after every drawing. */
export function onDraw(listener) {
  listeners.add(listener);
}

/** Whether there is a picture. */
export function hasPicture() {
  return source !== null;
}

/** Show a picture (a PNG) fitted, in its own window; not if it is given up while it is decoded. */
export async function show(blob, signal) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  if (signal.aborted) {
    bitmap.close(); // Another image has been opened: this one must not appear with its findings.
    return;
  }
  source = document.createElement("canvas");
  source.width = bitmap.width;
  source.height = bitmap.height;
  const pixels = source.getContext("2d", { alpha: false, willReadFrequently: true });
  pixels.drawImage(bitmap, 0, 0);
  bitmap.close();
  coloured = pixels.getImageData(0, 0, source.width, source.height);
  greys = new Uint8Array(source.width * source.height);
  for (let i = 0; i < greys.length; i += 1) greys[i] = coloured.data[i * 4];
  surface.hidden = false;
  reset();
}

/** Take the picture away. */
export function clear() {
  source = greys = coloured = null;
  surface.hidden = true;
}

/** The picture's own window and polarity, fitted. */
export function reset() {
  greyWindow = { ...views.FULL_WINDOW };
  setInverted(false);
  fit();
}

/** Fit the whole picture. */
export function fit() {
  if (!source) return;
  isFitted = true;
  view = views.fitted(source, space());
  redraw({ pixels: false });
}

/** One picture pixel to one screen pixel. */
export function actualSize() {
  if (!source) return;
  isFitted = false;
  view = views.actual(source, space(), window.devicePixelRatio);
  redraw({ pixels: false });
}

/** Between fitted and actual size. */
export function toggleSize() {
  if (isFitted) actualSize();
  else fit();
}

/** Zoom around a point of the surface; around its centre if none is given. */
export function zoom(factor, at = null) {
  if (!source) return;
  const room = space();
  isFitted = false;
  const centre = { x: room.width / 2, y: room.height / 2 };
  view = views.zoomed(view, factor, at ?? centre, source, room);
  redraw({ pixels: false });
}

/** Move the picture by screen pixels. */
export function pan(dx, dy) {
  if (!source) return;
  isFitted = false;
  view = views.panned(view, dx, dy, source, space());
  redraw({ pixels: false });
}

/** Bring a box (fractions of the picture) into sight if it is not. */
export function reveal([xMin, yMin, xMax, yMax]) {
  if (!source) return;
  const room = space();
  const left = view.x + xMin * source.width * view.scale;
  const right = view.x + xMax * source.width * view.scale;
  const top = view.y + yMin * source.height * view.scale;
  const bottom = view.y + yMax * source.height * view.scale;
  const isSeen = left < room.width && right > 0 && top < room.height && bottom > 0;
  if (!isSeen) pan(room.width / 2 - (left + right) / 2, room.height / 2 - (top + bottom) / 2);
}

/** Change the window by grey values. */
export function changeWindow(dWidth, dLevel) {
  if (!source) return;
  greyWindow = views.windowed(greyWindow, dWidth, dLevel);
  redraw({ pixels: true });
}

/** Invert the grey values, or not. */
export function setInverted(inverted) {
  isInverted = inverted;
  byId("invert").setAttribute("aria-pressed", String(inverted));
  redraw({ pixels: true });
}

/** The other polarity. */
export function toggleInverted() {
  setInverted(!isInverted);
}

/** Draw again, such as after the language or the boxes have changed. */
export function redraw({ pixels = false } = {}) {
  isStale.pixels ||= pixels;
  if (!isStale.frame) isStale.frame = requestAnimationFrame(draw);
}

function draw() {
  const applyWindow = isStale.pixels;
  isStale = { pixels: false, frame: 0 };
  if (!source) return;
  if (applyWindow) colour();
  const room = space();
  const ratio = window.devicePixelRatio;
  const [width, height] = [Math.round(room.width * ratio), Math.round(room.height * ratio)];
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.setTransform(view.scale * ratio, 0, 0, view.scale * ratio, view.x * ratio, view.y * ratio);
  context.drawImage(source, 0, 0);
  windowText.textContent = t("stage.window", {
    width: whole(greyWindow.width),
    level: whole(greyWindow.level),
  });
  zoomText.textContent = t("stage.zoom", { percent: whole(view.scale * ratio * 100) });
  for (const listener of listeners) listener(view, source);
}

function colour() {
  const table = views.lookupTable(greyWindow, isInverted);
  const target = new Uint32Array(coloured.data.buffer);
  for (let i = 0; i < greys.length; i += 1) target[i] = table[greys[i]];
  source.getContext("2d").putImageData(coloured, 0, 0);
}

function space() {
  return { width: surface.clientWidth || 1, height: surface.clientHeight || 1 };
}

new ResizeObserver(() => (isFitted ? fit() : redraw())).observe(surface);
