// Metrics over the whole rollout: losses, latency, failures, labels, rehearsals and fallbacks.

import { latencyChart, responsive } from "./chart.js";
import { byId, el, onChange, replace, say } from "./dom.js";
import { count, duration, METRICS, number, percent, raw } from "./format.js";

const VARIANTS = ["primary", "candidate"];
const CAUSES = { timeout: "no answer in time", failed: "failed", invalid: "answer not finite", down: "process down", starting: "still starting" };

const box = (title, ...inside) => el("article", { class: "card" }, el("h3", {}, title), inside);
const parts = {
  table: el("table", { class: "compare" }), tableWords: el("p", { class: "soft" }), latency: el("div", { class: "chart" }), latencyWords: el("p", { class: "soft" }),
  labels: el("div", {}), rehearsals: el("div", {}), comparison: el("div", {}),
};
let drawLatency;

export function prepareFigures() {
  byId("figures").replaceChildren(
    box("Quality on labelled rows", parts.table, parts.tableWords),
    box("Latency of answered requests, ms", parts.latency, parts.latencyWords),
    box("Labels", parts.labels),
    box("Rehearsals and fallbacks", parts.rehearsals),
    box("Where the models differ", parts.comparison),
  );
  drawLatency = responsive(parts.latency, 130, latencyChart);
}

const LOSSES = ["brier", "log_loss", "absolute_error", "squared_error"];

/** A mean loss: four decimals, fewer for a large one. */
const figure = (value) => (Math.abs(value) < 10 ? number(value, 4) : raw(value, value));

const SAME = 0.98; // if one variant has at least this share of the other's labelled rows, they are nearly the same rows

const showTable = onChange((variants) => {
  const names = VARIANTS.filter((name) => variants[name]);
  const labelled = names.map((name) => variants[name].labelled ?? 0);
  const same = Math.min(...labelled) >= SAME * Math.max(...labelled);
  say(parts.tableWords, same ? "" : "One model ran on fewer of these rows, so the columns are about different requests. The evidence "
    + "above compares both models on the same requests.");
  const rows = [
    ["labelled rows", (figures) => count(figures.labelled)],
    ...LOSSES.filter((name) => names.some((variant) => variants[variant][name] !== undefined))
      .map((name) => [METRICS[name], (figures) => figure(figures[name]), name]),
    ["accuracy", (figures) => percent(figures.accuracy)],
    ["requests answered", (figures) => count(figures.requests)],
    ["requests without an answer", (figures) => (figures.asked ? `${count(figures.failed)} of ${count(figures.asked)}` : "–")],
  ];
  parts.table.replaceChildren(
    el("thead", {}, el("tr", {}, el("td", {}),
      names.map((name) => el("th", { scope: "col" }, el("span", { class: `swatch ${name}` }), name)))),
    el("tbody", {}, rows.map(([title, read, loss]) => {
      const values = names.map((name) => variants[name][loss]);
      const best = same && loss && values.every(Number.isFinite) && values[0] !== values[1] ? Math.min(...values) : null;
      return el("tr", {}, el("th", { scope: "row" }, title), names.map((name, i) =>
        el("td", { class: best !== null && values[i] === best ? "best" : null }, read(variants[name]))));
    })));
});

const showLatency = onChange((variants, limit) => {
  const rows = VARIANTS.filter((name) => variants[name]?.latency_p50_ms)
    .map((name) => [name, ["p50", "p95", "p99"].map((key) => variants[name][`latency_${key}_ms`])]);
  if (!rows.length) return say(parts.latencyWords, "No request has been answered yet.");
  const words = rows.map(([name, [p50, p95, p99]]) =>
    `${name}: median ${number(p50, 2)}, 95 % within ${number(p95, 2)}, 99 % within ${number(p99, 2)} ms`);
  drawLatency({ rows, limit, label: words.join("; ") });
  say(parts.latencyWords, `${words.join("; ")}.`);
});

const showLabels = onChange((labels, wait) => {
  const coverage = labels.coverage ?? 0;
  const fill = el("span", { class: "fill plain" });
  fill.style.setProperty("--value", `${coverage * 100}%`);
  parts.labels.replaceChildren(
    el("p", { class: "big" }, labels.coverage === null ? "–" : percent(coverage), el("span", { class: "soft" }, " of the predictions have a label")),
    el("span", { class: "track", role: "meter", "aria-label": "label coverage", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(coverage * 100) }, fill),
    el("dl", { class: "facts" },
      el("dt", {}, "labels joined"), el("dd", {}, count(labels.matched)),
      el("dt", {}, "median delay"), el("dd", {}, duration(labels.delay_p50_s)),
      el("dt", {}, "longest wait"), el("dd", {}, duration(wait))));
});

const showRehearsals = onChange((shadow, fallbacks) => {
  const lost = shadow.dropped + shadow.failed + shadow.late;
  const total = Object.values(fallbacks).reduce((sum, value) => sum + value, 0);
  const causes = Object.entries(fallbacks).map(([cause, value]) => `${count(value)} ${CAUSES[cause] ?? cause}`).join(", ");
  replace(parts.rehearsals,
    el("dl", { class: "facts" },
      el("dt", {}, "rehearsed requests"), el("dd", {}, count(shadow.sent)),
      el("dt", {}, "compared"), el("dd", {}, count(shadow.compared)),
      el("dt", {}, "lost: dropped, failed, late"), el("dd", { class: lost ? "attention" : null },
        `${count(shadow.dropped)}, ${count(shadow.failed)}, ${count(shadow.late)}`),
      el("dt", {}, "fallbacks to the primary"), el("dd", { class: total ? "attention" : null }, count(total))),
    causes ? el("p", { class: "soft" }, `Fallbacks: ${causes}. Every caller got an answer.`) : null);
});

const showComparison = onChange((comparison) => {
  const { labels, probabilities, outputs = {} } = comparison ?? {};
  if (!comparison?.rows) return replace(parts.comparison, el("p", { class: "soft" }, "No row has an answer of both models yet."));
  const facts = [["rows with both answers", count(comparison.rows)]];
  if (labels) facts.push(["different label", `${count(labels.flips)} (${percent(labels.share)})`]);
  for (const way of labels?.ways?.slice(0, 4) ?? []) facts.push([`${way.primary} → ${way.candidate}`, count(way.rows)]);
  if (probabilities) {
    facts.push(["mean distance of probabilities", number(probabilities.mean, 3)], ["99 % of rows within", number(probabilities.p99, 3)]);
  }
  for (const [name, output] of Object.entries(outputs)) facts.push([`${name}, outside its tolerance`, `${count(output.rows_outside)} rows`]);
  return replace(parts.comparison, el("dl", { class: "facts" }, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
});

export function showFigures(state, policy) {
  showTable(state.variants);
  showLatency(state.variants, policy.goals.latency.p99_ms);
  showLabels(state.labels, policy.labels.wait_s);
  showRehearsals(state.shadow, state.fallbacks);
  showComparison(state.comparison ?? null);
}
