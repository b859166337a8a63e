// The evidence: each metric's band against its margin, and how close it is to a decision.

import { bandChart, meter, responsive } from "./chart.js";
import { byId, el, onChange, say, sayCode } from "./dom.js";
import { count, METRICS, number, percent, raw, sentence } from "./format.js";

const ANSWERS = { advance: ["good", "✓ goal met"], hold: ["warn", "… not decided"], rollback: ["bad", "✕ worse than allowed"] };
const ROWS = 12;
const UNBOUNDED = new Set(["log_loss", "absolute_error", "squared_error"]); // their maximum is the goal's clip
const cards = new Map();

/** The labels of a metric's chart. */
function look(metric, goals) {
  const title = METRICS[metric.metric] ?? metric.metric;
  const lower = title[0].toLowerCase() + title.slice(1);
  switch (metric.metric) {
    case "errors": return {
      title, up: "↑ candidate fails more often", across: "pairs", zeroText: "as often as the primary", floor: -1,
      lineText: `margin: ${percent(metric.line, 1)} more often`, format: (value) => percent(value, 2),
    };
    case "request_errors": return {
      title, up: "↑ candidate fails more often", across: "intervals of 10 s", zeroText: "as often as the primary", floor: -1, bare: true,
      lineText: `margin: ${percent(metric.line, 1)} more often`, format: (value) => percent(value, 2),
    };
    case "serving_errors": return {
      title, up: "↑ more of the failures are the candidate's", across: "failures", zeroText: null, floor: 0, bare: true,
      lineText: "", format: (value) => percent(value, 1),
    };
    case "latency_p50":
    case "latency_p95":
    case "latency_p99": return {
      title, up: "↑ candidate slower", across: "answers of each", zeroText: null, floor: 0,
      lineText: `allowed: ${metric.line} times`, format: (value) => number(value, 2),
    };
    case "latency": return {
      title, up: "↑ more of its answers are late or missing", across: "requests", zeroText: null, floor: 0,
      lineText: `allowed: ${percent(metric.line, 0)} later than ${goals.latency.p99_ms} ms or missing`, format: (value) => percent(value, 1),
    };
    case "poc_target": return {
      title, up: "↑ the primary is worse", across: "labelled requests", zeroText: null, floor: 0,
      lineText: `target: ${metric.line.toLocaleString("en")}`, format: (value) => raw(value, metric.line),
    };
    case "win_rate": return {
      title, up: "↑ candidate more often farther from the truth", across: "labelled pairs", zeroText: "nearer as often as farther", floor: -1,
      lineText: `margin: ${percent(metric.line, 1)} more often`, format: (value) => percent(value, 1),
    };
    default: return {
      title, up: "↑ candidate worse · better ↓", across: "labelled pairs", zeroText: "as good as the primary",
      floor: UNBOUNDED.has(metric.metric) ? -Infinity : -1,
      lineText: `margin: ${metric.line.toLocaleString("en", { maximumSignificantDigits: 6 })} worse`,
      format: (value) => raw(value, metric.line), lower,
    };
  }
}

function card(name, wide) {
  const parts = {
    title: el("h3", {}), badge: el("span", { class: "badge" }), words: el("p", { class: "words" }),
    chart: el("div", { class: "chart" }), meters: el("div", { class: "meters" }), table: el("tbody", {}),
    summary: el("summary", {}, "Numbers"),
  };
  const root = el("article", { class: wide ? "card wide" : "card", "data-metric": name },
    el("header", {}, parts.title, parts.badge), parts.words, parts.chart, parts.meters,
    el("details", {}, parts.summary, el("table", {},
      el("thead", {}, el("tr", {}, ["after", "estimate", "from", "to"].map((text) => el("th", { scope: "col" }, text)))),
      parts.table)));
  parts.draw = responsive(parts.chart, wide ? 320 : 190, bandChart);
  parts.meter = onChange((harm, advance) => {
    const bars = [];
    if (advance !== null) bars.push(meter("not worse than allowed", advance, "good", "full: the goal is met"));
    if (harm !== null) bars.push(meter("harm, in recent requests too", harm, "bad", "full: it is rolled back"));
    parts.meters.replaceChildren(...bars);
  });
  return { root, ...parts };
}

const strength = (logE, alpha, part) =>
  (logE === null || logE === undefined ? null : Math.min(Math.max((logE - Math.log(part)) / Math.log(1 / alpha), 0), 1));

function show(card_, metric, points, { goals, budget, harms, promoted }) {
  const view = look(metric, goals);
  const [tone, word] = ANSWERS[metric.answer];
  say(card_.title, view.title);
  if (metric.metric === "poc_target") {
    const [met, missed] = [metric.high <= metric.line, metric.low > metric.line];
    card_.badge.className = `badge ${met ? "good" : missed ? "bad" : "warn"}`;
    say(card_.badge, met ? "✓ met" : missed ? "✕ missed" : "… not decided");
  } else if (metric.answer === "hold" && !promoted && metric.log_e_advance === null && metric.log_e_harm !== null) {
    card_.badge.className = "badge plain"; // a guard never allows an advance, so it is never undecided
    say(card_.badge, "no harm found");
  } else {
    // After a promotion only harm is judged.
    const watched = promoted && metric.answer === "hold";
    card_.badge.className = `badge ${watched ? "plain" : tone}`;
    say(card_.badge, watched ? "watched for harm" : word);
  }
  sayCode(card_.words, sentence(promoted ? metric.reason.replace(/: not decided yet$/, "") : metric.reason));
  if (budget) {
    card_.meter(strength(metric.log_e_harm, budget.harm, harms), strength(metric.log_e_advance, budget.advance, 1));
  }
  const drawn = points.filter((point) => point.n > 0 && Number.isFinite(point.estimate));
  if (!drawn.length) return;
  const last = drawn.at(-1);
  const label = `${view.title}: ${metric.reason}`;
  card_.draw({ ...view, points: drawn, line: metric.line, answer: metric.metric === "poc_target" ? "plain" : metric.answer, label });
  const every = Math.max(1, Math.ceil(drawn.length / ROWS));
  const rows = drawn.filter((_, i) => i % every === 0 && i < drawn.length - 1).concat(last);
  card_.table.replaceChildren(...rows.map((point) => el("tr", {}, el("td", {}, count(point.n)),
    ["estimate", "low", "high"].map((name) => el("td", {}, point[name] === null ? "–" : view.format(point[name]))))));
}

/** The points of each metric, from points that have all metrics. */
function byMetric(bands) {
  const found = new Map();
  for (const { revision, metrics } of bands) {
    for (const metric of metrics) {
      if (!found.has(metric.metric)) found.set(metric.metric, []);
      found.get(metric.metric).push({ ...metric, revision });
    }
  }
  return found;
}

export function showEvidence(state, evidence, policy) {
  const root = byId("evidence");
  const budget = state.verdict.error_budget;
  if (!state.metrics.length) {
    if (!cards.size) root.replaceChildren(el("p", { class: "card soft" }, "Nothing has been judged yet: there is no pair so far."));
    return;
  }
  if (!cards.size) root.replaceChildren();
  say(byId("budget"), budget ? `Over the whole rollout: at most ${percent(budget.advance, 2)} chance of any wrong advance, `
    + `${percent(budget.harm, 2)} of any wrong rollback` : "");
  const harms = state.metrics.filter((metric) => metric.log_e_harm !== null && metric.log_e_harm !== undefined).length || 1;
  const points = byMetric(evidence.bands);
  const given = { goals: policy.goals, budget, harms, promoted: state.phase === "promoted" };
  state.metrics.forEach((metric, i) => {
    if (!cards.has(metric.metric)) {
      const made = card(metric.metric, i === 0 && metric.metric !== "latency");
      cards.set(metric.metric, made);
      root.append(made.root);
    }
    show(cards.get(metric.metric), metric, points.get(metric.metric) ?? [], given);
  });
}
