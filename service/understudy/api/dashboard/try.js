// A form for one row, made from the models' signature, and both models' predictions.

import { predict, Problem } from "./api.js";
import { byId, el } from "./dom.js";
import { number, percent } from "./format.js";

const NOT_FLOATS = /^u?int/;
let fields = [];
let positive = null;

const rounded = (field) => {
  if (field.example === undefined) return "";
  return typeof field.example === "number" ? String(NOT_FLOATS.test(field.dtype) ? Math.round(field.example) : Number(field.example.toPrecision(4))) : field.example;
};

function input(field) {
  const id = `field-${field.name}`;
  const common = { id, name: field.name, "aria-describedby": `${id}-note` };
  if (!field.scalar) return el("textarea", { ...common, rows: 2, placeholder: `JSON, shape [${field.shape.map((n) => n ?? "any").join(", ")}]` });
  if (field.dtype === "bool") return el("input", { ...common, type: "checkbox" });
  if (field.dtype !== "string") return el("input", { ...common, type: "number", step: NOT_FLOATS.test(field.dtype) ? 1 : "any", inputmode: "decimal" });
  const list = field.choices ? `${id}-list` : null;
  return el("input", { ...common, type: "text", list, autocomplete: "off", spellcheck: "false" });
}

function note(field) {
  if (field.context) return "routes or counts the caller; no model input";
  const within = field.minimum === undefined ? "" : `${Number(field.minimum.toPrecision(4))} to ${Number(field.maximum.toPrecision(4))} in training`;
  const empty = field.nullable ? "empty: missing" : field.required ? "" : "optional";
  return [within, empty].filter(Boolean).join("; ");
}

function row(field) {
  const id = `field-${field.name}`;
  const list = field.choices && el("datalist", { id: `${id}-list` }, field.choices.map((value) => el("option", { value })));
  return el("div", { class: "field" }, el("label", { for: id, title: field.description || null }, field.name), input(field), list,
    el("p", { class: "field-note", id: `${id}-note` }, note(field)));
}

/** The row as `POST /predict` takes it. An empty field is null if it is nullable, and absent if it is optional. */
function read(form) {
  const values = {};
  for (const field of fields) {
    const control = form.elements[field.name];
    const text = control.value.trim();
    if (field.dtype === "bool" && field.scalar) values[field.name] = control.checked;
    else if (text === "" && field.dtype !== "string") {
      if (field.nullable) values[field.name] = null;
    } else if (text === "" && !field.required) continue;
    else if (!field.scalar) {
      try {
        values[field.name] = JSON.parse(text);
      } catch {
        values[field.name] = text;
      }
    } else values[field.name] = field.dtype === "string" ? text : Number(text);
  }
  return values;
}

function mark(form, errors) {
  for (const field of fields) {
    const mine = errors.find((error) => error.field === field.name);
    const control = form.elements[field.name];
    const words = byId(`field-${field.name}-note`);
    control.setAttribute("aria-invalid", mine ? "true" : "false");
    words.textContent = mine ? mine.problem : note(field);
    words.classList.toggle("problem", Boolean(mine));
  }
}

function bars(variant, probabilities) {
  const named = Array.isArray(probabilities) ? probabilities.map((p, i) => [String(i), p]) : Object.entries(probabilities);
  const shown = named.length === 2 && positive !== null ? named.filter(([name]) => name === String(positive)) : named.sort((a, b) => b[1] - a[1]).slice(0, 5);
  return shown.map(([name, probability]) => {
    const fill = el("span", { class: `fill ${variant}` });
    fill.style.setProperty("--value", `${probability * 100}%`);
    return el("div", { class: "meter" }, el("span", { class: "meter-name" }, `P(${name})`),
      el("span", { class: "track", "aria-hidden": "true" }, fill), el("span", { class: "meter-value" }, percent(probability)));
  });
}

function answerCard(variant, result) {
  const head = el("h3", {}, el("span", { class: `swatch ${variant}` }), variant);
  if (result instanceof Error) {
    return el("article", { class: "answer" }, head, el("p", { class: "problem" }, result.message));
  }
  const [prediction] = result.predictions;
  const answer = prediction.label ?? (prediction.value === undefined ? JSON.stringify(prediction.outputs) : number(prediction.value, 4));
  return el("article", { class: "answer" }, head, el("p", { class: "big" }, String(answer)),
    prediction.probabilities ? bars(variant, prediction.probabilities) : null,
    el("p", { class: "soft" }, `version ${result.version}, ${number(result.milliseconds, 1)} ms round trip`));
}

async function ask(event, variants) {
  event.preventDefault();
  const form = event.target;
  const body = read(form);
  const results = await Promise.all(variants.map((variant) => predict(body, variant).catch((error) => error)));
  const invalid = results.find((result) => result instanceof Problem && result.errors.length);
  mark(form, invalid?.errors ?? []);
  if (invalid) {
    form.querySelector("[aria-invalid=true]")?.focus();
    byId("try-answers").replaceChildren(el("p", { class: "problem" }, invalid.message));
    return;
  }
  const cards = variants.map((variant, i) => answerCard(variant, results[i]));
  byId("try-answers").replaceChildren(...cards);
}

function example(form) {
  for (const field of fields) {
    const control = form.elements[field.name];
    if (field.dtype === "bool" && field.scalar) control.checked = Boolean(field.example);
    else control.value = rounded(field);
  }
  mark(form, []);
}

export function prepareTry(policy, hasCandidate) {
  const context = policy.context.map((name) => ({ name, dtype: "string", shape: [], scalar: true, nullable: true, required: false, context: true }));
  fields = [...policy.fields, ...context];
  positive = policy.positive;
  if (policy.label) byId("try-asks").textContent = `Predicted: ${policy.label}.`;
  const form = byId("try-form");
  const variants = hasCandidate ? ["primary", "candidate"] : ["primary"];
  form.replaceChildren(
    el("div", { class: "fields" }, fields.map(row)),
    el("div", { class: "row" }, el("button", { class: "solid" }, hasCandidate ? "Predict with both" : "Predict"),
      el("button", { type: "button", onclick: () => example(form) }, "Fill in an example")));
  form.addEventListener("submit", (event) => ask(event, variants));
  example(form);
}
