// What the browser keeps for the page. Where storage is switched off it lasts as long as the page.

const inMemory = new Map();

/** What was kept under a name, or null; `area` is `localStorage` or `sessionStorage`. */
export function kept(area, name) {
  try {
    return window[area].getItem(name);
  } catch {
    return inMemory.get(name) ?? null;
  }
}

/** Keep a text under a name. */
export function keep(area, name, text) {
  try {
    window[area].setItem(name, text);
  } catch {
    inMemory.set(name, text);
  }
}
