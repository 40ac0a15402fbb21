// The parts of the agent's HTTP API that the page uses. No other host is contacted.

import { loadText, storeText } from "./storage.js";

const KEY = "hilum.key";

/** A failed request; `code` is a stable code of the agent, or `network`. */
export class AgentError extends Error {
  constructor(code, message = "", hint = "", status = 0) {
    super(message || code);
    this.code = code;
    this.hint = hint;
    this.status = status;
  }
}

/** Fetch the description of the model: names, score floor, operating points. */
export async function getModel(signal) {
  return (await request("model", { signal })).json();
}

/** Fetch the findings in one image from a score of `threshold`. */
export async function predict(file, threshold, signal) {
  const form = imageForm(file);
  form.append("threshold", String(threshold));
  return (await request("predict", { method: "POST", body: form, signal })).json();
}

/** Fetch the radiograph as an 8-bit greyscale PNG. */
export async function render(file, signal) {
  return (await request("render", { method: "POST", body: imageForm(file), signal })).blob();
}

/** Use an access key until the tab is closed. Characters that no key contains are removed. */
export function useKey(key) {
  storeText("sessionStorage", KEY, key.replace(/[^\x21-\x7e]/g, ""));
}

function imageForm(file) {
  const form = new FormData();
  // File names at hospitals often hold a patient's name, so they are not sent.
  form.append("file", file, "image");
  return form;
}

async function request(path, options) {
  const key = loadText("sessionStorage", KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new AgentError("network", failure.message);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  const { code = "internal", message = "", hint = "" } = body?.error ?? {};
  throw new AgentError(code, message, hint, answer.status);
}
