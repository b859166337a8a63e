// Requests, latency and failures of each variant over time. The service keeps the points, so a page opened now shows the past.

import { get } from "./api.js";
import { responsive, timeChart } from "./chart.js";
import { byId, el, replace, say } from "./dom.js";
import { count, duration, number, percent } from "./format.js";

const VARIANTS = ["primary", "candidate"];
const ROWS = 12; // of the table
const LEAST_POINTS = 24; // least width of a chart, in points
const spans = { recent: { points: [] }, long: { points: [] } };
let chosen = "recent";
let goal = null; // of p99, in milliseconds

const rate = (point, name) => point[name].requests / Math.max(point.to - point.from, 0.001);
const share = (point, name) => (point[name].asked ? point[name].failed / point[name].asked : null);
const ms = (value) => number(value, value < 10 ? 2 : 0);
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

/** The charts: title, lines by kind with their names, and the format of values. */
const PICTURES = [
  {
    name: "latency", title: "Latency of answered requests, ms", log: true, least: 1, format: (value) => String(Number(value.toPrecision(2))), write: ms,
    kinds: [["p50", "median", (point, name) => point[name].p50_ms], ["p99", "p99", (point, name) => point[name].p99_ms]],
    about: "Thin: median. Thick: 99th percentile.",
  },
  {
    name: "failures", title: "Requests without an answer", log: false, least: 0.01, format: (value) => percent(value, value < 0.1 ? 1 : 0), write: (value) => percent(value, 2),
    kinds: [["p99", "without an answer", share]], about: "Share of each model's requests, rehearsals included. Callers get the other model's answer if there is one.",
  },
  {
    name: "requests", title: "Requests answered per second", log: false, least: 1, format: (value) => (Number.isInteger(value) ? count(value) : number(value, 1)), write: (value) => number(value, 1),
    kinds: [["p99", "per second", rate]], about: "Live requests, by the model that answered.",
  },
];
const cards = new Map();

function card(picture) {
  const parts = { chart: el("div", { class: "chart" }), words: el("p", { class: "soft" }), body: el("tbody", {}) };
  parts.draw = responsive(parts.chart, 150, timeChart);
  const head = VARIANTS.flatMap((name) => picture.kinds.map(([, title]) => el("th", { scope: "col" }, `${name}, ${title}`)));
  parts.root = el("article", { class: "card", "data-traffic": picture.name }, el("h3", {}, picture.title), parts.chart, parts.words,
    el("p", { class: "soft legend" }, el("span", { class: "swatch primary" }), "primary ", el("span", { class: "swatch candidate" }),
      `candidate, dashed. ${picture.about}`),
    el("details", {}, el("summary", {}, "Newest numbers"),
      el("div", { class: "scroll-x", tabindex: 0, role: "region", "aria-label": `${picture.title}: newest numbers` },
        el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "until"), head)), parts.body))));
  return parts;
}

/** Builds the section. */
export function prepareTraffic() {
  for (const picture of PICTURES) cards.set(picture.name, card(picture));
  byId("traffic-pictures").replaceChildren(...[...cards.values()].map(({ root }) => root));
  for (const input of document.getElementsByName("span")) {
    input.addEventListener("change", () => {
      chosen = input.value;
      draw();
    });
  }
}

/** Fetches the new points. */
export async function fetchTraffic() {
  for (const [name, span] of Object.entries(spans)) {
    const traffic = await get(`rollout/traffic?span=${name}&after=${span.points.at(-1)?.to ?? 0}`);
    span.points = span.points.concat(traffic.points).slice(-(traffic.points_max ?? 0) || span.points.length);
    [span.length, span.most] = [traffic.interval_s, traffic.points_max];
    if (traffic.points_max) say(byId(`span-${name}`), `last ${duration(traffic.interval_s * traffic.points_max)}`);
  }
}

/** The lines of a chart that have values. */
const linesOf = (picture, points) => VARIANTS.flatMap((variant) => picture.kinds.map(([kind, title, read]) => ({
  variant, kind, title, points: points.filter((point) => point[variant]).map((point) => [point.from, point.to, read(point, variant)])
    .filter(([, , value]) => value !== null && value !== undefined),
}))).filter((line) => line.points.length);

const worstOf = (points) => points.reduce((most, point) => (point[2] > most[2] ? point : most));

/** Text alternative of a chart: each line's newest and highest value, with their times. */
const inFull = (picture, lines) => lines.map(({ variant, title, points }) => {
  const [last, worst] = [points.at(-1), worstOf(points)];
  return `${variant}, ${title}: ${picture.write(last[2])} at ${clock(last[1])}, at most ${picture.write(worst[2])} at ${clock(worst[1])}`;
}).join("; ");

/** The caption of a chart: the newest values and the highest one. */
function inShort(picture, lines) {
  const newest = VARIANTS.map((variant) => [variant, lines.filter((line) => line.variant === variant)]).filter(([, own]) => own.length)
    .map(([variant, own]) => `${variant} ${own.map(({ title, points }) => `${title} ${picture.write(points.at(-1)[2])}`).join(", ")}`);
  const worst = worstOf(lines.flatMap(({ points }) => points));
  return `Last: ${newest.join("; ")}. Highest: ${picture.write(worst[2])} at ${clock(worst[1])}.`;
}

function show(picture, points, frame) {
  const parts = cards.get(picture.name);
  const lines = linesOf(picture, points);
  const nothing = "No requests in this time.";
  say(parts.words, lines.length ? inShort(picture, lines) : nothing);
  const limit = picture.name === "latency" ? goal : null;
  parts.draw({ ...picture, ...frame, limit, limitText: `p99 goal: ${limit} ms`, lines, label: `${picture.title} over time: ${lines.length ? inFull(picture, lines) : nothing}` });
  replace(parts.body, points.slice(-ROWS).reverse().map((point) => el("tr", {}, el("td", {}, clock(point.to)),
    VARIANTS.flatMap((name) => picture.kinds.map(([, , read]) => {
      const value = point[name] ? read(point, name) : null;
      return el("td", {}, value === null ? "–" : picture.write(value));
    })))));
}

/** Draws the chosen span up to now. */
function draw() {
  const { points, length, most } = spans[chosen];
  if (!length) return;
  const to = Math.max(points.at(-1)?.to ?? 0, Date.now() / 1000);
  const from = Math.max(to - length * most, Math.min(points[0]?.from ?? to, to - length * LEAST_POINTS));
  const seen = points.filter((point) => point.from >= from);
  for (const picture of PICTURES) show(picture, seen, { from, to });
  say(byId("traffic-note"), `A point is ${duration(length)} of real time, over all workers. They are stored, so a restart loses none.`);
}

/** Draws the charts; `limit` is the p99 goal in milliseconds. */
export function showTraffic(limit) {
  goal = limit;
  draw();
}
