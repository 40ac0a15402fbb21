// Single-key shortcuts, their list, and the switch that turns them off (WCAG 2.2, 2.1.4).

import { byId, element } from "./dom.js";
import { t } from "./i18n.js";
import { keep, kept } from "./kept.js";

const SWITCH = "hilum.single-keys";
const help = byId("help");
const single = byId("single-keys");

const LISTED = [
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

/** Write the list of shortcuts in the language in use. */
export function listKeys() {
  byId("key-list").replaceChildren(
    ...LISTED.flatMap(([keys, what]) => [
      element(
        "dt",
        {},
        ...keys.map((key) => element("kbd", {}, key.startsWith("keys.") ? t(key) : key)),
      ),
      element("dd", {}, t(what)),
    ]),
  );
}

/** Listen for shortcuts: `actions` maps a key, in lower case, to what it does. */
export function listen(actions) {
  single.checked = kept("localStorage", SWITCH) !== "off";
  single.addEventListener("change", () => {
    keep("localStorage", SWITCH, single.checked ? "on" : "off");
  });
  byId("open-help").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]") || !single.checked || types(event.target)) return;
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

/** Whether keys pressed here are meant as text or as a choice. */
function types(target) {
  return target.matches("select, textarea, input:not([type=checkbox], [type=radio], [type=range])");
}
