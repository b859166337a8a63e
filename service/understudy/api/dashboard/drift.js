// Drift: the last day of requests beside each model's training data. Hidden if the service does not measure it.

import { byId, el, onChange, replace, say } from "./dom.js";
import { count, number, percent, sentence, time } from "./format.js";

const SHOWN = 8; // features that are shown at first, the most different from training first
const VARIANTS = ["primary", "candidate"];

const distance = (reading) => reading.psi / (reading.line || 1);

/** A feature's distance from training. The middle of the scale is the threshold of drift. */
function bar(reading) {
  const fill = el("span", { class: `fill ${reading.crossed.includes("distribution") ? "bad" : "plain"}` });
  fill.style.setProperty("--value", `${Math.min(100, distance(reading) * 50)}%`);
  return el("span", { class: "track lined", role: "img", "aria-label": `${number(distance(reading), 2)} times its threshold` }, fill);
}

function row(reading) {
  const name = reading.feature === "(prediction)" ? "its predictions" : reading.feature;
  return el("tr", {},
    el("th", { scope: "row" }, name, reading.since ? el("span", { class: "badge bad" }, "alarm") : null),
    el("td", { class: "wide-cell" }, bar(reading)),
    el("td", {}, number(reading.psi, 2)),
    el("td", { class: reading.crossed.includes("missing") ? "attention" : null }, percent(reading.missing)),
    el("td", {}, percent(reading.outside)));
}

function table(variant, readings) {
  const sorted = readings.toSorted((a, b) => Boolean(b.since) - Boolean(a.since) || distance(b) - distance(a));
  const head = el("thead", {}, el("tr", {},
    ["feature", "distance (mark: threshold)", "PSI", "missing", "never seen"].map((text) => el("th", { scope: "col" }, text))));
  const part = (rows, name) => el("div", { class: "scroll-x", tabindex: 0, role: "region", "aria-label": name },
    el("table", { class: "drift" }, head.cloneNode(true), el("tbody", {}, rows.map(row))));
  const rest = sorted.slice(SHOWN);
  const open = byId("drift-body").querySelector(`[data-rest=${variant}]`)?.open; // stays open if it was open
  return el("article", { class: "card" }, el("h3", {}, el("span", { class: `swatch ${variant}` }), `against the ${variant}'s training`),
    part(sorted.slice(0, SHOWN), `drift against the ${variant}'s training`),
    rest.length ? el("details", { "data-rest": variant, open }, el("summary", {}, `${rest.length} more`),
      part(rest, `the rest of the ${variant}'s features`)) : null);
}

function alarms(drift) {
  if (!drift.alarms.length) return el("p", {}, el("span", { class: "badge good" }, "✓ no alarm"));
  return el("ul", { class: "plain-list" }, drift.alarms.map((alarm) =>
    el("li", {}, el("span", { class: "badge bad" }, `${alarm.variant}: ${alarm.feature}`), ` ${sentence(alarm.reason)}`)));
}

function estimates(drift) {
  const known = VARIANTS.filter((variant) => drift.estimates[variant]);
  if (!known.length) return null;
  const words = known.map((variant) => {
    const { accuracy, brier } = drift.estimates[variant];
    return `${variant}: accuracy ${percent(accuracy)}, Brier ${number(brier, 3)}`;
  });
  return el("p", { class: "soft" }, `Estimated from the models' own probabilities, without labels: ${words.join("; ")}. Estimates are weaker than labels, `
    + "are no evidence, and decide nothing.");
}

/** Shows the document of `GET /rollout/drift`; null hides the section. */
export const showDrift = onChange((drift) => {
  const section = byId("drift");
  section.hidden = !drift?.window;
  if (section.hidden) return;
  const { window: span } = drift;
  say(byId("drift-note"), `The day up to ${time(span.to)}, ${count(span.rows)} rows${span.not_whole ? ` (not a whole day: ${span.not_whole})` : ""}. `
    + "Alarms decide nothing; labels do.");
  replace(byId("drift-body"),
    el("article", { class: "card all" }, el("h3", {}, "Alarms"), alarms(drift), estimates(drift)),
    VARIANTS.map((variant) => [variant, drift.features.filter((reading) => reading.variant === variant)])
      .filter(([, readings]) => readings.length).map(([variant, readings]) => table(variant, readings)));
});
