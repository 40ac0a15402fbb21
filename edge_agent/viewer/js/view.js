// Where the picture lies on the screen, and how its grey values are shown. Pure: no page in here.

export const FULL_WINDOW = Object.freeze({ width: 256, level: 128 });
const LARGEST_ZOOM = 16;
const KEEP_IN_SIGHT_PX = 40;

/** Scale and offset that fit a picture into a space, centred. */
export function fitted(picture, space) {
  const scale = Math.min(space.width / picture.width, space.height / picture.height);
  return centred(picture, space, scale);
}

/** One picture pixel to one screen pixel, centred. */
export function actual(picture, space, pixelRatio) {
  return centred(picture, space, 1 / pixelRatio);
}

function centred(picture, space, scale) {
  return {
    scale,
    x: (space.width - picture.width * scale) / 2,
    y: (space.height - picture.height * scale) / 2,
  };
}

/** Zoom by a factor; the point of the picture under `at` stays where it is. */
export function zoomed(view, factor, at, picture, space) {
  const smallest = Math.min(fitted(picture, space).scale, 1) / 2;
  const scale = clamp(view.scale * factor, smallest, LARGEST_ZOOM);
  const ratio = scale / view.scale;
  const moved = { scale, x: at.x - (at.x - view.x) * ratio, y: at.y - (at.y - view.y) * ratio };
  return inSight(moved, picture, space);
}

/** Move by screen pixels, but never out of sight. */
export function panned(view, dx, dy, picture, space) {
  return inSight({ ...view, x: view.x + dx, y: view.y + dy }, picture, space);
}

function inSight(view, picture, space) {
  const keep = KEEP_IN_SIGHT_PX;
  return {
    ...view,
    x: clamp(view.x, keep - picture.width * view.scale, space.width - keep),
    y: clamp(view.y, keep - picture.height * view.scale, space.height - keep),
  };
}

/** The window after a drag: right widens it (less contrast), down lowers brightness. */
export function windowed(window, dx, dy) {
  return {
    width: clamp(window.width + dx, 2, 512),
    level: clamp(window.level + dy, -64, 320),
  };
}

/**
 * What each of the 256 grey values is shown as (DICOM PS3.3 C.11.2.1.2.1, LINEAR_EXACT), packed
 * as canvas pixels: 32 bits, little endian, opaque.
 */
export function lookupTable(window, inverted) {
  const table = new Uint32Array(256);
  const low = window.level - window.width / 2;
  for (let value = 0; value < 256; value += 1) {
    let grey = clamp(Math.round(((value - low) / window.width) * 255), 0, 255);
    if (inverted) grey = 255 - grey;
    table[value] = (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
  }
  return table;
}

/** A number kept between two bounds. */
export function clamp(value, low, high) {
  return Math.min(Math.max(value, Math.min(low, high)), Math.max(low, high));
}
