// Ways to open an image: choose, drop or paste a file.

import { byId } from "./dom.js";

const input = byId("file");
const release = byId("release");

/** Open the file dialog. */
export function chooseFile() {
  input.click();
}

/** Call `onOpen(files)` with the files that are chosen, dropped or pasted. */
export function onFiles(onOpen) {
  for (const id of ["choose", "another"]) {
    byId(id).addEventListener("click", chooseFile);
  }
  input.addEventListener("change", () => {
    if (input.files.length) onOpen([...input.files]);
    input.value = ""; // So that the same file can be chosen again.
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    onOpen(files);
  });
  // The whole page accepts drops, because the browser would show a file dropped elsewhere instead.
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
    if (files.length) onOpen(files);
  });
}

function hasFiles(event) {
  return [...(event.dataTransfer?.types ?? [])].includes("Files");
}
