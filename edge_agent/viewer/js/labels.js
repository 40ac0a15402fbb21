// Where the boxes' labels go, so that none covers another. Pure: no page in here.

export const LABEL_HEIGHT_PX = 20;
const PADDING_PX = 6;

/**
 * Place one label per box.
 *
 * `boxes` are `{left, top, right, bottom}` on the screen in order of importance, `sizes` their
 * labels' `[long, short]` widths, `space` the screen's size. Answers, for each box, `{left, top,
 * width, isShort}`. A label with no free place is shortened to its number; that one always shows.
 */
export function placed(boxes, sizes, space) {
  const taken = [];
  return boxes.map((box, i) => {
    for (const isShort of [false, true]) {
      const width = sizes[i][isShort ? 1 : 0] + 2 * PADDING_PX;
      for (const place of places(box, width)) {
        const label = { ...inside(place, width, space), width, isShort };
        if (taken.every((other) => apart(label, other))) {
          taken.push(label);
          return label;
        }
      }
    }
    const width = sizes[i][1] + 2 * PADDING_PX;
    return { ...inside({ left: box.left, top: box.top }, width, space), width, isShort: true };
  });
}

function places(box, width) {
  const above = box.top - LABEL_HEIGHT_PX;
  const below = box.bottom - LABEL_HEIGHT_PX;
  return [
    { left: box.left, top: above },
    { left: box.left, top: box.bottom },
    { left: box.right - width, top: above },
    { left: box.right - width, top: box.bottom },
    { left: box.right, top: box.top },
    { left: box.left - width, top: box.top },
    { left: box.left, top: box.top },
    { left: box.left, top: below },
  ];
}

function inside(place, width, space) {
  return {
    left: Math.min(Math.max(place.left, 0), Math.max(0, space.width - width)),
    top: Math.min(Math.max(place.top, 0), Math.max(0, space.height - LABEL_HEIGHT_PX)),
  };
}

function apart(one, other) {
  return (
    one.left + one.width <= other.left ||
    other.left + other.width <= one.left ||
    one.top + LABEL_HEIGHT_PX <= other.top ||
    other.top + LABEL_HEIGHT_PX <= one.top
  );
}
