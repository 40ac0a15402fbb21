// Single-key shortcuts, their list, and the switch that turns them off (WCAG 2.2, 2.1.4).

import { byId, element } from "./dom.js";
import { t } from "./i18n.js";
import { loadText, storeText } from "./storage.js";

const SWITCH = "hilum.single-keys";
const help = byId("help");
const single = byId("single-keys");

const SHORTCUTS = [
  [["O"], "keys.open"],
  [["keys.ctrl", "V"], "keys.paste"],
  [["+", "−"], "keys.zoom"],
  [["0"], "keys.fit"],
  [["1"], "keys.actual"],
  [["keys.arrows"], "keys.pan"],
  [["keys.shift", "keys.arrows"], "keys.window"],
  [["I"], "keys.invert"],
  [["B"], "keys.boxes"],
  [["N", "P"], "keys.next"],
  [["T"], "keys.threshold"],
  [["D"], "keys.own"],
  [["R"], "keys.reset"],
  [["?"], "keys.help"],
  [["Esc"], "keys.escape"],
];

/** Render the list of shortcuts in the language in use. */
export function listKeys() {
  byId("key-list").replaceChildren(
    ...SHORTCUTS.flatMap(([keys, what]) => [
      element(
        "dt",
        {},
        ...keys.map((key) => element("kbd", {}, key.startsWith("keys.") ? t(key) : key)),
      ),
      element("dd", {}, t(what)),
    ]),
  );
}

/** Listen for shortcuts: `actions` maps a key, in lower case, to a function. */
export function listen(actions) {
  single.checked = loadText("localStorage", SWITCH) !== "off";
  single.addEventListener("change", () => {
    storeText("localStorage", SWITCH, single.checked ? "on" : "off");
  });
  byId("open-help").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]") || !single.checked || acceptsText(event.target)) return;
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** Open the help. */
export function openHelp() {
  help.showModal();
}

/** Return true if an element uses key presses as text or as a choice. */
function acceptsText(target) {
  return target.matches("select, textarea, input:not([type=checkbox], [type=radio], [type=range])");
}
