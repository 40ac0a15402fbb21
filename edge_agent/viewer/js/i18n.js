// Message catalogues: one JSON file per language, all with the same keys.

import { loadText, storeText } from "./storage.js";

const LANGUAGES = ["en", "de"];
const LANGUAGE_KEY = "hilum.language";

let messages = {};
let language = "en";
let plural = new Intl.PluralRules("en");

/** Return the language that was chosen before, or else the browser's, or else English. */
export function preferredLanguage() {
  const browserTags = navigator.languages.map((tag) => tag.slice(0, 2));
  const candidates = [loadText("localStorage", LANGUAGE_KEY), ...browserTags];
  return candidates.find((tag) => LANGUAGES.includes(tag)) ?? "en";
}

/** Load a catalogue and translate the page. */
export async function useLanguage(chosen, { remember = false } = {}) {
  const answer = await fetch(`messages/${chosen}.json`);
  if (!answer.ok) throw new Error(`no catalogue for ${chosen}`);
  messages = await answer.json();
  language = chosen;
  plural = new Intl.PluralRules(chosen);
  document.documentElement.lang = chosen;
  if (remember) storeText("localStorage", LANGUAGE_KEY, chosen);
  translate(document);
}

/** Return the message for a key; `{name}` is replaced by `values.name`. */
export function t(key, values = {}) {
  const message = messages[key] ?? key;
  return message.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** Return true if the catalogue has a key. The agent's codes may be newer than the page. */
export function hasMessage(key) {
  return key in messages;
}

/** Return the message for a number of things, in its plural form. */
export function tPlural(key, number) {
  return t(`${key}.${plural.select(number)}`, { count: number });
}

/** Format a score for the language in use. */
export function formatScore(value) {
  return value.toLocaleString(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}

/** Format an integer for the language in use. */
export function formatInteger(value) {
  return Math.round(value).toLocaleString(language);
}

/** Translate every element that names a key. */
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
