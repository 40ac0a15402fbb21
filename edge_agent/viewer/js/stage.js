// Draws the picture on a canvas, with window, zoom and position.

import { byId } from "./dom.js";
import { formatInteger, t } from "./i18n.js";
import * as views from "./view.js";

const surface = byId("surface");
const canvas = byId("canvas");
const context = canvas.getContext("2d", { alpha: false });
const windowText = byId("window-text");
const zoomText = byId("zoom-text");

let source = null; // A canvas in the picture's own size that holds the windowed pixels.
let greys = null; // Uint8Array, one grey value per pixel.
let coloured = null; // ImageData that receives the windowed grey values.
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

/** Return true if there is a picture. */
export function hasPicture() {
  return source !== null;
}

/** Show a picture (a PNG), fitted and in its own window, unless `signal` aborts while it decodes. */
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

/** Remove the picture. */
export function clear() {
  source = greys = coloured = null;
  surface.hidden = true;
}

/** Fit the picture, and use its own window and polarity. */
export function reset() {
  greyWindow = { ...views.FULL_WINDOW };
  setInverted(false);
  fit();
}

/** Fit the whole picture. */
export function fit() {
  if (!source) return;
  isFitted = true;
  view = views.fitView(source, surfaceSize());
  redraw({ pixels: false });
}

/** Show one picture pixel as one screen pixel. */
export function actualSize() {
  if (!source) return;
  isFitted = false;
  view = views.actualSizeView(source, surfaceSize(), window.devicePixelRatio);
  redraw({ pixels: false });
}

/** Switch between fitted and actual size. */
export function toggleSize() {
  if (isFitted) actualSize();
  else fit();
}

/** Zoom around a point of the surface, by default its centre. */
export function zoom(factor, at = null) {
  if (!source) return;
  const size = surfaceSize();
  isFitted = false;
  const centre = { x: size.width / 2, y: size.height / 2 };
  view = views.zoomView(view, factor, at ?? centre, source, size);
  redraw({ pixels: false });
}

/** Move the picture by screen pixels. */
export function pan(dx, dy) {
  if (!source) return;
  isFitted = false;
  view = views.panView(view, dx, dy, source, surfaceSize());
  redraw({ pixels: false });
}

/** Pan until a box (fractions of the picture) is visible. */
export function reveal([xMin, yMin, xMax, yMax]) {
  if (!source) return;
  const size = surfaceSize();
  const left = view.x + xMin * source.width * view.scale;
  const right = view.x + xMax * source.width * view.scale;
  const top = view.y + yMin * source.height * view.scale;
  const bottom = view.y + yMax * source.height * view.scale;
  const isVisible = left < size.width && right > 0 && top < size.height && bottom > 0;
  if (!isVisible) pan(size.width / 2 - (left + right) / 2, size.height / 2 - (top + bottom) / 2);
}

/** Change the window by grey values. */
export function changeWindow(dWidth, dLevel) {
  if (!source) return;
  greyWindow = views.adjustWindow(greyWindow, dWidth, dLevel);
  redraw({ pixels: true });
}

/** Invert the grey values, or not. */
export function setInverted(inverted) {
  isInverted = inverted;
  byId("invert").setAttribute("aria-pressed", String(inverted));
  redraw({ pixels: true });
}

/** Switch the polarity. */
export function toggleInverted() {
  setInverted(!isInverted);
}

/** Draw again, for example after the language or the boxes have changed. */
export function redraw({ pixels = false } = {}) {
  isStale.pixels ||= pixels;
  if (!isStale.frame) isStale.frame = requestAnimationFrame(draw);
}

function draw() {
  const applyWindow = isStale.pixels;
  isStale = { pixels: false, frame: 0 };
  if (!source) return;
  if (applyWindow) applyLookupTable();
  const size = surfaceSize();
  const ratio = window.devicePixelRatio;
  const [width, height] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
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
    width: formatInteger(greyWindow.width),
    level: formatInteger(greyWindow.level),
  });
  zoomText.textContent = t("stage.zoom", { percent: formatInteger(view.scale * ratio * 100) });
  for (const listener of listeners) listener(view, source);
}

function applyLookupTable() {
  const table = views.buildLookupTable(greyWindow, isInverted);
  const target = new Uint32Array(coloured.data.buffer);
  for (let i = 0; i < greys.length; i += 1) target[i] = table[greys[i]];
  source.getContext("2d").putImageData(coloured, 0, 0);
}

function surfaceSize() {
  return { width: surface.clientWidth || 1, height: surface.clientHeight || 1 };
}

new ResizeObserver(() => (isFitted ? fit() : redraw())).observe(surface);
