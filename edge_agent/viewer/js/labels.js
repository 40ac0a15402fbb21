// Places the boxes' labels so that none covers another. Pure functions, without the DOM.

export const LABEL_HEIGHT_PX = 20;
const PADDING_PX = 6;

/**
 * Place one label per box.
 *
 * `boxes` are `{left, top, right, bottom}` on the screen in order of importance, `sizes` their
 * labels' `[long, short]` widths, `space` the screen's size. Returns `{left, top, width, isShort}` for
 * each box. A label that has no free place is shortened to its number, and then always shown.
 */
export function placeLabels(boxes, sizes, space) {
  const placed = [];
  return boxes.map((box, i) => {
    for (const isShort of [false, true]) {
      const width = sizes[i][isShort ? 1 : 0] + 2 * PADDING_PX;
      for (const place of candidatePlaces(box, width)) {
        const label = { ...moveInside(place, width, space), width, isShort };
        if (placed.every((other) => areDisjoint(label, other))) {
          placed.push(label);
          return label;
        }
      }
    }
    const width = sizes[i][1] + 2 * PADDING_PX;
    return { ...moveInside({ left: box.left, top: box.top }, width, space), width, isShort: true };
  });
}

function candidatePlaces(box, width) {
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

function moveInside(place, width, space) {
  return {
    left: Math.min(Math.max(place.left, 0), Math.max(0, space.width - width)),
    top: Math.min(Math.max(place.top, 0), Math.max(0, space.height - LABEL_HEIGHT_PX)),
  };
}

function areDisjoint(one, other) {
  return (
    one.left + one.width <= other.left ||
    other.left + other.width <= one.left ||
    one.top + LABEL_HEIGHT_PX <= other.top ||
    other.top + LABEL_HEIGHT_PX <= one.top
  );
}
