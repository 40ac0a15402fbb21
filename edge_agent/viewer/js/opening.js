// Ways to hand over an image: choose, drop, paste.

import { byId } from "./dom.js";

const input = byId("file");
const release = byId("release");

/** Ask for a file. */
export function chooseFile() {
  input.click();
}

/** Call `take(files)` with the files that are handed over, however that is done. */
export function onFiles(take) {
  for (const id of ["choose", "another"]) {
    byId(id).addEventListener("click", chooseFile);
  }
  input.addEventListener("change", () => {
    if (input.files.length) take([...input.files]);
    input.value = ""; // So that the same file can be chosen again.
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
  // Wherever it is dropped: a file that misses the picture must not replace the page.
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    release.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) release.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    release.hidden = true;
    const files = [...event.dataTransfer.files];
    if (files.length) take(files);
  });
}

function hasFiles(event) {
  return [...(event.dataTransfer?.types ?? [])].includes("Files");
}
