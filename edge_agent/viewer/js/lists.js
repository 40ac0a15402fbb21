// Renders the panel: findings, kinds, threshold, facts, warnings, errors.

import { colourOf } from "./colours.js";
import { byId, element } from "./dom.js";
import { isChanged, reachesOwnThreshold, thresholdOf } from "./filter.js";
import { formatInteger, formatScore, hasMessage, t, tPlural } from "./i18n.js";

/** Render the shown findings; `on.point(id)`, `on.leave()` and `on.pick(id)` are called on events. */
export function listFindings(findings, settings, points, on) {
  const list = byId("findings");
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  list.hidden = findings.length === 0;
  byId("score-note").hidden = findings.length === 0;
  list.replaceChildren(
    ...findings.map((finding) => {
      const button = element(
        "button",
        { type: "button", class: "finding", "data-id": finding.id, "data-class": finding.slug },
        element("span", { class: "number", "aria-hidden": "true" }, String(finding.number)),
        element("span", { class: "name" }, t(`finding.${finding.slug}`)),
        element("span", { class: "score" }, formatScore(finding.score)),
        meter(finding, thresholdOf(finding.slug, settings, points)),
        reachesOwnThreshold(finding, points)
          ? null
          : element("span", { class: "below" }, t("result.below", { point: own(finding, points) })),
      );
      button.style.setProperty("--colour", colourOf(finding.index));
      button.addEventListener("pointerenter", () => on.point(finding.id));
      button.addEventListener("pointerleave", () => on.leave());
      button.addEventListener("focus", () => on.point(finding.id));
      button.addEventListener("blur", () => on.leave());
      button.addEventListener("click", () => on.pick(finding.id));
      return element("li", {}, button);
    }),
  );
  if (focused !== null) list.querySelector(`[data-id="${focused}"]`)?.focus();
}

function own(finding, points) {
  return formatScore(points.get(finding.slug) ?? 0);
}

function meter(finding, threshold) {
  const bar = element("span", { class: "meter", "aria-hidden": "true" }, element("span"));
  bar.style.setProperty("--score", String(finding.score));
  bar.style.setProperty("--threshold", String(threshold));
  return bar;
}

/** Mark the highlighted finding and the selected one. */
export function markFinding(active, picked) {
  for (const button of byId("findings").querySelectorAll("button")) {
    const id = Number(button.dataset.id);
    button.classList.toggle("active", id === active);
    button.setAttribute("aria-pressed", String(id === picked));
  }
}

/** Render the kinds of finding with their switches, once per model and language. */
export function listKinds(kinds, settings, onToggle) {
  byId("kinds").replaceChildren(
    ...kinds.map(({ index, slug, operating_point: point }) => {
      const box = element("input", { type: "checkbox", "data-class": slug });
      box.checked = !settings.hiddenKinds.has(slug);
      box.addEventListener("change", () => onToggle(slug, box.checked));
      const label = element(
        "label",
        { class: "kind", title: t("kinds.point", { point: formatScore(point) }) },
        box,
        element("span", { class: "swatch", "aria-hidden": "true" }),
        element("span", { class: "name" }, t(`finding.${slug}`)),
        element("span", { class: "point" }, t("kinds.point.short", { point: formatScore(point) })),
        element("span", { class: "count" }),
      );
      label.style.setProperty("--colour", colourOf(index));
      return element("li", {}, label);
    }),
  );
}

/** Update the number of findings and the switch of each kind. */
export function countKinds(shown, settings) {
  for (const label of byId("kinds").querySelectorAll("label")) {
    const box = label.querySelector("input");
    const number = shown.filter((finding) => finding.slug === box.dataset.class).length;
    const counter = label.querySelector(".count");
    counter.textContent = number ? String(number) : "";
    counter.title = number ? tPlural("kinds.count", number) : "";
    label.classList.toggle("has-some", number > 0);
    box.checked = !settings.hiddenKinds.has(box.dataset.class);
  }
}

/** Render the threshold slider and its text. */
export function showThreshold(settings, model) {
  const slider = byId("threshold");
  const points = model.findings.map((finding) => finding.operating_point);
  const mean = points.reduce((sum, point) => sum + point, 0) / points.length;
  slider.min = String(model.score_floor);
  slider.max = "0.95";
  slider.value = String(settings.threshold ?? mean);
  const words =
    settings.threshold === null
      ? t("threshold.own")
      : t("threshold.all", { score: formatScore(settings.threshold) });
  byId("threshold-text").textContent = words;
  slider.setAttribute("aria-valuetext", words);
  slider.classList.toggle("is-own", settings.threshold === null);
  byId("threshold-own").disabled = settings.threshold === null;
}

/** Render and return the summary. An empty list is never called normal. */
export function summarise(findings, shown, settings, points) {
  const hidden = findings.filter((f) => reachesOwnThreshold(f, points) && !shown.includes(f)).length;
  const changed = isChanged(settings);
  const more = [];
  let words;
  if (shown.length) words = tPlural(changed ? "result.shown" : "result.found", shown.length);
  else words = t(changed ? "result.none_shown" : "result.none");
  if (hidden) more.push(tPlural("result.hidden", hidden));
  if (!shown.length) more.push(t("result.none_more"));
  byId("summary").textContent = words;
  byId("summary-more").textContent = more.join(" ");
  return [words, ...more].join(" ");
}

/** Render the warnings. */
export function listWarnings(warnings) {
  byId("warnings").hidden = warnings.length === 0;
  byId("warning-list").replaceChildren(
    ...warnings.map(({ code, message }) =>
      element("li", {}, hasMessage(`warning.${code}`) ? t(`warning.${code}`) : message),
    ),
  );
}

// Codes of errors after which the same request may succeed.
const RETRYABLE = new Set([
  "network",
  "unauthenticated",
  "overloaded",
  "deadline_exceeded",
  "not_ready",
  "decoder_failed",
  "engine_failed",
  "audit_unavailable",
  "internal",
]);

/** Render an error and what to do about it; null removes it. */
export function showError(error) {
  byId("error").hidden = error === null;
  if (error === null) return;
  const code = hasMessage(`error.${error.code}`) ? error.code : "unknown";
  byId("error-what").textContent = t(`error.${code}`);
  byId("error-todo").textContent = t(`todo.${code}`);
  byId("error-retry").hidden = !RETRYABLE.has(error.code);
  const status = error.status ? `HTTP ${error.status}, ` : "";
  const text = [error.message, error.hint].filter(Boolean).join(" ");
  byId("error-details").textContent = `${status}${error.code}: ${text}`;
}

/** Render the facts about the image. */
export function showImageFacts(answer, fileName) {
  byId("image-facts").hidden = answer === null;
  if (answer === null) return;
  const { image, timings } = answer;
  facts("image-facts-list", [
    ["facts.file", fileName],
    ["facts.format", image.format.toUpperCase()],
    ["facts.size", t("facts.pixels", { columns: image.columns, rows: image.rows, bits: image.bits_stored })],
    ["facts.view", image.view || t("facts.unknown")],
    ["facts.photometric", image.photometric],
    ["facts.manufacturer", image.manufacturer],
    ["facts.time", t("facts.times", { total: formatInteger(timings.total_ms), infer: formatInteger(timings.infer_ms) })],
    ["facts.engine", answer.engine],
  ]);
}

/** Render the facts about the model. */
export function showModelFacts(model) {
  byId("model-facts").hidden = model === null;
  byId("model-line").textContent = model === null ? "" : `${model.name} ${model.version}`;
  if (model === null) return;
  facts("model-facts-list", [
    ["facts.name", `${model.name} ${model.version}`],
    ["facts.digest", model.bundle_digest],
    ["facts.engine", model.engine],
    ["facts.compute_device", model.compute_device],
    ["facts.use", model.intended_use],
  ]);
}

function facts(id, pairs) {
  byId(id).replaceChildren(
    ...pairs
      .filter(([, value]) => value)
      .flatMap(([key, value]) => [element("dt", {}, t(key)), element("dd", {}, String(value))]),
  );
}
