// Message catalogues: one JSON file per language, with the same keys in each.

import { keep, kept } from "./kept.js";

const LANGUAGES = ["en", "de"];
const REMEMBERED = "hilum.language";

let messages = {};
let language = "en";
let plural = new Intl.PluralRules("en");

/** The language in use: what was chosen before, else what the browser asks for, else English. */
export function preferredLanguage() {
  const asked = navigator.languages.map((tag) => tag.slice(0, 2));
  const wanted = [kept("localStorage", REMEMBERED), ...asked];
  return wanted.find((tag) => LANGUAGES.includes(tag)) ?? "en";
}

/** Load a catalogue and put it on the page. */
export async function useLanguage(chosen, { remember = false } = {}) {
  const answer = await fetch(`messages/${chosen}.json`);
  if (!answer.ok) throw new Error(`no catalogue for ${chosen}`);
  messages = await answer.json();
  language = chosen;
  plural = new Intl.PluralRules(chosen);
  document.documentElement.lang = chosen;
  if (remember) keep("localStorage", REMEMBERED, chosen);
  translate(document);
}

/** The message for a key; `{name}` is replaced by `values.name`. */
export function t(key, values = {}) {
  const message = messages[key] ?? key;
  return message.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** Whether the catalogue has a key: codes may be newer than the page. */
export function known(key) {
  return key in messages;
}

/** The message for a number of things, in the form that this number takes. */
export function count(key, number) {
  return t(`${key}.${plural.select(number)}`, { count: number });
}

/** A score as people of this language write it. */
export function score(value) {
  return value.toLocaleString(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}

/** A whole number as people of this language write it. */
export function whole(value) {
  return Math.round(value).toLocaleString(language);
}

/** Fill in every element that names a key. */
function translate(root) {
  document.title = t("page.title");
  for (const element of root.querySelectorAll("[data-i18n]")) {
    element.textContent = t(element.dataset.i18n);
  }
  for (const element of root.querySelectorAll("[data-i18n-label]")) {
    element.setAttribute("aria-label", t(element.dataset.i18nLabel));
    if (element.tagName === "BUTTON" || element.tagName === "SELECT") {
      element.title = t(element.dataset.i18nLabel);
    }
  }
  for (const element of root.querySelectorAll("[data-i18n-title]")) {
    element.title = t(element.dataset.i18nTitle);
  }
}
