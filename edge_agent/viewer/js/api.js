// The agent's HTTP face, as far as the page needs it. Nothing here talks to any other host.

import { keep, kept } from "./kept.js";

const KEY = "hilum.key";

/** Why there is no answer; `code` is a stable code of the agent, or `network`. */
export class AgentError extends Error {
  constructor(code, message = "", hint = "", status = 0) {
    super(message || code);
    this.code = code;
    this.hint = hint;
    this.status = status;
  }
}

/** Which model answers: names, score floor, operating points. */
export async function getModel(signal) {
  return (await request("model", { signal })).json();
}

/** The findings of one image, all of them down to the model's score floor. */
export async function predict(file, threshold, signal) {
  const form = imageForm(file);
  form.append("threshold", String(threshold));
  return (await request("predict", { method: "POST", body: form, signal })).json();
}

/** The radiograph as an 8-bit greyscale PNG. */
export async function render(file, signal) {
  return (await request("render", { method: "POST", body: imageForm(file), signal })).blob();
}

/** Use an access key until the tab is closed. What cannot be part of one, pasted along, is left out. */
export function useKey(key) {
  keep("sessionStorage", KEY, key.replace(/[^\x21-\x7e]/g, ""));
}

function imageForm(file) {
  const form = new FormData();
  // File names at hospitals often hold a patient's name: it stays in the browser.
  form.append("file", file, "image");
  return form;
}

async function request(path, options) {
  const key = kept("sessionStorage", KEY);
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
