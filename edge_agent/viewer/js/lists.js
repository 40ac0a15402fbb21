// The panel's lists: findings, kinds, threshold, facts, warnings, errors.

import { colourOf } from "./colours.js";
import { byId, element } from "./dom.js";
import { isChanged, reachesOwn, thresholdOf } from "./filter.js";
import { count, known, score, t, whole } from "./i18n.js";

/** The list of shown findings; `on.point(id)`, `on.leave()` and `on.pick(id)` say what is done. */
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
        element("span", { class: "score" }, score(finding.score)),
        meter(finding, thresholdOf(finding.slug, settings, points)),
        reachesOwn(finding, points)
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
  return score(points.get(finding.slug) ?? 0);
}

function meter(finding, threshold) {
  const bar = element("span", { class: "meter", "aria-hidden": "true" }, element("span"));
  bar.style.setProperty("--score", String(finding.score));
  bar.style.setProperty("--threshold", String(threshold));
  return bar;
}

/** Mark the finding that is pointed out, and the one that is picked. */
export function markFinding(active, picked) {
  for (const button of byId("findings").querySelectorAll("button")) {
    const id = Number(button.dataset.id);
    button.classList.toggle("active", id === active);
    button.setAttribute("aria-pressed", String(id === picked));
  }
}

/** The kinds of finding with their switches; made once per model and language. */
export function listKinds(kinds, settings, onToggle) {
  byId("kinds").replaceChildren(
    ...kinds.map(({ index, slug, operating_point: point }) => {
      const box = element("input", { type: "checkbox", "data-class": slug });
      box.checked = !settings.hiddenKinds.has(slug);
      box.addEventListener("change", () => onToggle(slug, box.checked));
      const label = element(
        "label",
        { class: "kind", title: t("kinds.point", { point: score(point) }) },
        box,
        element("span", { class: "swatch", "aria-hidden": "true" }),
        element("span", { class: "name" }, t(`finding.${slug}`)),
        element("span", { class: "point" }, t("kinds.point.short", { point: score(point) })),
        element("span", { class: "count" }),
      );
      label.style.setProperty("--colour", colourOf(index));
      return element("li", {}, label);
    }),
  );
}

/** How many of each kind are shown, and which are switched on. */
export function countKinds(shown, settings) {
  for (const label of byId("kinds").querySelectorAll("label")) {
    const box = label.querySelector("input");
    const number = shown.filter((finding) => finding.slug === box.dataset.class).length;
    const counter = label.querySelector(".count");
    counter.textContent = number ? String(number) : "";
    counter.title = number ? count("kinds.count", number) : "";
    label.classList.toggle("has-some", number > 0);
    box.checked = !settings.hiddenKinds.has(box.dataset.class);
  }
}

/** The slider and its words. */
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
      : t("threshold.all", { score: score(settings.threshold) });
  byId("threshold-text").textContent = words;
  slider.setAttribute("aria-valuetext", words);
  slider.classList.toggle("is-own", settings.threshold === null);
  byId("threshold-own").disabled = settings.threshold === null;
}

/** The sentence above the list. Silence about findings is never called normal. */
export function summarise(findings, shown, settings, points) {
  const hidden = findings.filter((f) => reachesOwn(f, points) && !shown.includes(f)).length;
  const changed = isChanged(settings);
  const more = [];
  let words;
  if (shown.length) words = count(changed ? "result.shown" : "result.found", shown.length);
  else words = t(changed ? "result.none_shown" : "result.none");
  if (hidden) more.push(count("result.hidden", hidden));
  if (!shown.length) more.push(t("result.none_more"));
  byId("summary").textContent = words;
  byId("summary-more").textContent = more.join(" ");
  return [words, ...more].join(" ");
}

/** What to be wary of. */
export function listWarnings(warnings) {
  byId("warnings").hidden = warnings.length === 0;
  byId("warning-list").replaceChildren(
    ...warnings.map(({ code, message }) =>
      element("li", {}, known(`warning.${code}`) ? t(`warning.${code}`) : message),
    ),
  );
}

// Where asking again, without changing anything, may help.
const PASSING = new Set([
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

/** Why there is no answer, in plain words, and what to do; null takes it away. */
export function showError(error) {
  byId("error").hidden = error === null;
  if (error === null) return;
  const code = known(`error.${error.code}`) ? error.code : "unknown";
  byId("error-what").textContent = t(`error.${code}`);
  byId("error-todo").textContent = t(`todo.${code}`);
  byId("error-retry").hidden = !PASSING.has(error.code);
  const status = error.status ? `HTTP ${error.status}, ` : "";
  const said = [error.message, error.hint].filter(Boolean).join(" ");
  byId("error-details").textContent = `${status}${error.code}: ${said}`;
}

/** What is known about the image that was answered. */
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
    ["facts.time", t("facts.times", { total: whole(timings.total_ms), infer: whole(timings.infer_ms) })],
    ["facts.engine", answer.engine],
  ]);
}

/** What is known about the model. */
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
