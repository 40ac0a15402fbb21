// The page's state, its requests to the agent, and the event listeners that connect its parts.

import * as api from "./api.js";
import { boxAt, drawBoxes } from "./boxes.js";
import { byId } from "./dom.js";
import { defaultSettings, isShown } from "./filter.js";
import "./gestures.js";
import { formatScore, preferredLanguage, t, useLanguage } from "./i18n.js";
import * as keys from "./keys.js";
import * as lists from "./lists.js";
import { chooseFile, onFiles } from "./file_input.js";
import * as stage from "./stage.js";

const MAX_ANNOUNCED = 5; // Findings that a screen reader announces. The list has all of them.

const page = {
  file: null,
  model: null,
  points: new Map(), // Operating point by slug.
  answer: null,
  findings: [],
  error: null,
  hint: "",
  settings: defaultSettings(),
  pointed: null, // The finding under the pointer or the focus.
  picked: null, // The finding that was clicked.
  boxesOn: true,
  work: null, // AbortController of the requests in flight.
};

// --- requests -------------------------------------------------------------------------------

/** Run detection on the first of the files. */
async function openFiles(files) {
  page.hint = files.length > 1 ? t("open.first_only", { count: files.length }) : "";
  page.file = files[0];
  // A filter that was set for one patient must not hide the findings of the next.
  page.settings = defaultSettings();
  showBoxes(true);
  await detect();
}

async function detect() {
  page.work?.abort();
  const work = new AbortController();
  Object.assign(page, { work, answer: null, findings: [], error: null, pointed: null, picked: null });
  stage.clear();
  setState("working", t("work.reading"));
  // The picture mostly arrives first, and is shown without waiting for the findings.
  const [picture, answer] = await Promise.allSettled([
    fetchPicture(page.file, work),
    fetchFindings(page.file, work),
  ]);
  if (work.signal.aborted || page.work !== work) return;
  if (answer.status === "fulfilled") {
    page.answer = answer.value;
    page.findings = answer.value.predictions.map(toFinding);
    if (picture.status === "rejected") page.hint = t("result.no_picture");
    setState("done");
  } else {
    showFailure(answer.reason);
  }
}

async function fetchPicture(file, work) {
  const picture = await api.render(file, work.signal);
  if (work.signal.aborted) return;
  await stage.show(picture, work.signal);
  if (page.work === work && document.body.dataset.state === "working") {
    setState("working", t("work.detecting"));
  }
}

async function fetchFindings(file, work) {
  const model = await api.getModel(work.signal);
  useModel(model);
  // All findings are fetched, so that changing the threshold needs no further request.
  return api.predict(file, model.score_floor, work.signal);
}

function toFinding(prediction, id) {
  const { index, class: slug, confidence, bbox } = prediction;
  return { id, index, slug, score: confidence, bbox };
}

function useModel(model) {
  page.model = model;
  page.points = new Map(model.findings.map((kind) => [kind.slug, kind.operating_point]));
  lists.listKinds(model.findings, page.settings, toggleKind);
  lists.showModelFacts(model);
}

function showFailure(error) {
  page.error = error instanceof api.AgentError ? error : new api.AgentError("internal", String(error));
  stage.clear();
  setState("error");
  // A role that does not permit this needs another key.
  if (["unauthenticated", "forbidden"].includes(page.error.code)) byId("key-dialog").showModal();
}

// --- rendering ------------------------------------------------------------------------------

function setState(state, progress = "") {
  document.body.dataset.state = state;
  byId("progress").hidden = state !== "working";
  byId("progress-text").textContent = progress;
  byId("drop").hidden = stage.hasPicture() || state === "working";
  byId("another").hidden = state === "idle";
  byId("surface").setAttribute("aria-busy", String(state === "working"));
  update({ announce: state !== "idle", progress });
}

/** Render the whole page from its state. */
function update({ announce = false, progress = "" } = {}) {
  const shown = shownFindings();
  const isDone = document.body.dataset.state === "done";
  byId("filters").hidden = !isDone;
  byId("hint").hidden = !page.hint;
  byId("hint").textContent = page.hint;
  lists.showError(page.error);
  lists.listWarnings(page.answer?.warnings ?? []);
  lists.showImageFacts(page.answer, page.file?.name ?? "");
  lists.listFindings(shown, page.settings, page.points, { point, leave: () => point(null), pick });
  lists.countKinds(shown, page.settings);
  let words = progress || idleSummary();
  byId("summary").textContent = words;
  byId("summary-more").textContent = summaryDetail();
  if (isDone) {
    lists.showThreshold(page.settings, page.model);
    words = lists.summarise(page.findings, shown, page.settings, page.points);
  }
  // An error is announced by its own alert.
  if (announce) byId("announce").textContent = page.error ? "" : announcement(words, shown, isDone);
  highlight();
}

/** Return the detail below the summary: the model's findings, or the file that failed. */
function summaryDetail() {
  const { state } = document.body.dataset;
  if (state === "error") return page.file?.name ?? "";
  return state === "idle" ? describeModel() : "";
}

function idleSummary() {
  return { idle: t("result.idle"), error: t("error.title") }[document.body.dataset.state] ?? "";
}

function describeModel() {
  const kinds = page.model?.findings.map((kind) => t(`finding.${kind.slug}`)) ?? [];
  return kinds.length ? t("result.detects", { count: kinds.length, kinds: kinds.join(", ") }) : "";
}

function announcement(words, shown, isDone) {
  if (!isDone) return words;
  const first = shown.slice(0, MAX_ANNOUNCED).map((it) =>
    t("result.spoken", { number: it.number, name: t(`finding.${it.slug}`), score: formatScore(it.score) }),
  );
  return [words, first.join("; ")].filter(Boolean).join(" ");
}

function shownFindings() {
  return page.findings
    .filter((it) => isShown(it, page.settings, page.points))
    .map((it, at) => Object.assign(it, { number: at + 1 }));
}

function highlight() {
  lists.markFinding(page.pointed ?? page.picked, page.picked);
  stage.redraw();
}

// --- user actions -----------------------------------------------------------------------------

function point(id) {
  if (page.pointed === id) return;
  page.pointed = id;
  highlight();
}

function pick(id) {
  page.picked = page.picked === id ? null : id;
  const found = page.findings.find((it) => it.id === page.picked);
  if (found) stage.reveal(found.bbox);
  highlight();
}

/** Move the focus to the next or previous finding in the list. */
function step(by) {
  const buttons = [...byId("findings").querySelectorAll("button")];
  if (!buttons.length) return;
  const at = buttons.indexOf(document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : buttons.length - 1) : (at + by + buttons.length) % buttons.length;
  buttons[next].focus();
}

function setThreshold(threshold) {
  page.settings.threshold = threshold;
  update({ announce: true });
}

function toggleKind(slug, isOn) {
  if (isOn) page.settings.hiddenKinds.delete(slug);
  else page.settings.hiddenKinds.add(slug);
  update({ announce: true });
}

function setAllKinds(isOn) {
  const slugs = isOn ? [] : page.model.findings.map((kind) => kind.slug);
  page.settings.hiddenKinds = new Set(slugs);
  update({ announce: true });
}

function showBoxes(isOn) {
  page.boxesOn = isOn;
  byId("boxes-toggle").setAttribute("aria-pressed", String(isOn));
  stage.redraw();
}

function toggleBoxes() {
  showBoxes(!page.boxesOn);
}

function resetView() {
  stage.reset();
  showBoxes(true);
}

async function changeLanguage(language, remember) {
  await useLanguage(language, { remember });
  keys.listKeys();
  if (page.model) useModel(page.model);
  page.hint = "";
  update();
}

// --- wiring -------------------------------------------------------------------------------

stage.onDraw((view, picture) => {
  const findings = page.boxesOn ? shownFindings() : [];
  drawBoxes(findings, page.pointed ?? page.picked, view, picture);
});
onFiles(openFiles);
byId("error-retry").addEventListener("click", detect);
byId("zoom-in").addEventListener("click", () => stage.zoom(1.25));
byId("zoom-out").addEventListener("click", () => stage.zoom(0.8));
byId("zoom-fit").addEventListener("click", stage.fit);
byId("zoom-actual").addEventListener("click", stage.actualSize);
byId("invert").addEventListener("click", stage.toggleInverted);
byId("boxes-toggle").addEventListener("click", toggleBoxes);
byId("reset").addEventListener("click", resetView);
byId("threshold").addEventListener("input", (event) => setThreshold(Number(event.target.value)));
byId("threshold-own").addEventListener("click", () => setThreshold(null));
byId("kinds-all").addEventListener("click", () => setAllKinds(true));
byId("kinds-none").addEventListener("click", () => setAllKinds(false));
byId("language").addEventListener("change", (event) => changeLanguage(event.target.value, true));
byId("surface").addEventListener("pointermove", (event) => {
  if (event.buttons || event.pointerType === "touch") return;
  point(boxAt({ x: event.offsetX, y: event.offsetY }));
});
byId("surface").addEventListener("pointerleave", () => point(null));
byId("key-form").addEventListener("submit", (event) => {
  const key = byId("key-input").value;
  byId("key-input").value = "";
  if (event.submitter?.value !== "use" || !key) return;
  api.useKey(key);
  if (page.file) detect();
});
keys.listen({
  o: chooseFile,
  "+": () => stage.zoom(1.25),
  "=": () => stage.zoom(1.25),
  "-": () => stage.zoom(0.8),
  0: stage.fit,
  1: stage.actualSize,
  i: stage.toggleInverted,
  b: toggleBoxes,
  n: () => step(1),
  p: () => step(-1),
  t: () => byId("threshold").focus(),
  d: () => page.answer && setThreshold(null),
  r: resetView,
  "?": keys.openHelp,
  escape: () => {
    page.picked = page.pointed = null;
    highlight();
  },
});

const language = preferredLanguage();
byId("language").value = language;
await changeLanguage(language, false);
setState("idle");
// A failure is ignored here, because each image fetches the model again.
api.getModel().then(useModel, () => {}).then(() => update());
