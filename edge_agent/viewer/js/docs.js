// The programmers' page: renders the agent's OpenAPI document without third-party scripts.

import { byId, element } from "./dom.js";

const origin = window.location.origin;
byId("curl").textContent = `curl -F file=@chest.dcm ${origin}/predict`;
byId("python").textContent = `import requests

with open("chest.dcm", "rb") as image:
    answer = requests.post("${origin}/predict", files={"file": image}, timeout=30)
answer.raise_for_status()
for finding in answer.json()["predictions"]:
    print(finding["class"], finding["confidence"], finding["bbox"])`;

const document_ = await (await fetch("/openapi.json")).json();
byId("version").textContent = document_.info.version;
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    byId("operations").append(operationCard(path, method, operation));
  }
}
for (const [name, schema] of Object.entries(document_.components.schemas)) {
  byId("schemas").append(schemaCard(name, schema));
}

function operationCard(path, method, operation) {
  const form = operation.requestBody?.content?.["multipart/form-data"]?.schema;
  const inputs = [
    ...Object.entries(form?.properties ?? {}).map(([name, schema]) => [name, "form", schema]),
    ...(operation.parameters ?? []).map((it) => [it.name, `${it.in} or form`, it.schema, it.description]),
  ];
  const answers = Object.entries(operation.responses).map(([status, answer]) => [
    status,
    answer.description,
    typeName(Object.values(answer.content ?? {})[0]?.schema),
  ]);
  return element(
    "section",
    {},
    element("h3", {}, element("span", { class: "method" }, method.toUpperCase()), ` ${path}`),
    element("p", {}, operation.description || operation.summary),
    inputs.length
      ? table(inputs.map(([name, where, schema, words]) => [name, where, typeName(schema), words ?? schema?.description ?? ""]))
      : null,
    table(answers),
  );
}

function schemaCard(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([field, it]) => [
    field,
    typeName(it),
    it.description ?? "",
  ]);
  return element(
    "section",
    { id: name },
    element("h3", {}, name),
    element("p", {}, schema.description ?? ""),
    table(rows),
  );
}

function table(rows) {
  const cells = (row) =>
    row.map((cell, at) => element("td", {}, at === 0 ? element("code", {}, cell) : cell));
  return element("table", {}, ...rows.map((row) => element("tr", {}, ...cells(row))));
}

function typeName(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" or ");
  if (schema.enum) return schema.enum.join(" or ");
  if (schema.type === "array") return `list of ${typeName(schema.items) || "values"}`;
  return schema.format === "binary" ? "file" : (schema.type ?? "");
}
