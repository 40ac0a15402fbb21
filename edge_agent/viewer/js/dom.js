// Helpers that build elements. Text is always inserted as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Create an HTML element with attributes and children (elements or text). */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Create an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(created, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) created.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      created.setAttribute(name, String(value));
    }
  }
  created.append(...children.filter((child) => child !== null && child !== undefined));
  return created;
}
