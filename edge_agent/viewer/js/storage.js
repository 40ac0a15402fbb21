// The browser's storage. Where it is switched off, values are lost when the page is closed.

const inMemory = new Map();

/** Return the text stored under a name, or null; `area` is `localStorage` or `sessionStorage`. */
export function loadText(area, name) {
  try {
    return window[area].getItem(name);
  } catch {
    return inMemory.get(name) ?? null;
  }
}

/** Store a text under a name. */
export function storeText(area, name, text) {
  try {
    window[area].setItem(name, text);
  } catch {
    inMemory.set(name, text);
  }
}
