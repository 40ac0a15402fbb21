// Computes the picture's position on the screen and its grey values. Pure functions, without the DOM.

export const FULL_WINDOW = Object.freeze({ width: 256, level: 128 });
const LARGEST_ZOOM = 16;
const MIN_VISIBLE_PX = 40;

/** Return the scale and offset that fit a picture into a space, centred. */
export function fitView(picture, space) {
  const scale = Math.min(space.width / picture.width, space.height / picture.height);
  return centreView(picture, space, scale);
}

/** Return the view with one picture pixel per screen pixel, centred. */
export function actualSizeView(picture, space, pixelRatio) {
  return centreView(picture, space, 1 / pixelRatio);
}

function centreView(picture, space, scale) {
  return {
    scale,
    x: (space.width - picture.width * scale) / 2,
    y: (space.height - picture.height * scale) / 2,
  };
}

/** Return the view zoomed by a factor around the point `at`. */
export function zoomView(view, factor, at, picture, space) {
  const smallest = Math.min(fitView(picture, space).scale, 1) / 2;
  const scale = clamp(view.scale * factor, smallest, LARGEST_ZOOM);
  const ratio = scale / view.scale;
  const moved = { scale, x: at.x - (at.x - view.x) * ratio, y: at.y - (at.y - view.y) * ratio };
  return keepVisible(moved, picture, space);
}

/** Return the view moved by screen pixels, with a part of the picture still visible. */
export function panView(view, dx, dy, picture, space) {
  return keepVisible({ ...view, x: view.x + dx, y: view.y + dy }, picture, space);
}

function keepVisible(view, picture, space) {
  const keep = MIN_VISIBLE_PX;
  return {
    ...view,
    x: clamp(view.x, keep - picture.width * view.scale, space.width - keep),
    y: clamp(view.y, keep - picture.height * view.scale, space.height - keep),
  };
}

/** Return the window after a drag: right widens it (less contrast), down lowers brightness. */
export function adjustWindow(window, dx, dy) {
  return {
    width: clamp(window.width + dx, 2, 512),
    level: clamp(window.level + dy, -64, 320),
  };
}

/**
 * Return the shown value of each of the 256 grey values (DICOM PS3.3 C.11.2.1.2.1, LINEAR_EXACT),
 * packed as canvas pixels: 32 bits, little endian, opaque.
 */
export function buildLookupTable(window, inverted) {
  const table = new Uint32Array(256);
  const low = window.level - window.width / 2;
  for (let value = 0; value < 256; value += 1) {
    let grey = clamp(Math.round(((value - low) / window.width) * 255), 0, 255);
    if (inverted) grey = 255 - grey;
    table[value] = (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
  }
  return table;
}

/** Return a number limited to two bounds. */
export function clamp(value, low, high) {
  return Math.min(Math.max(value, Math.min(low, high)), Math.max(low, high));
}
