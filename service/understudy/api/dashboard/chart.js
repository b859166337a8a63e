// Charts in SVG, drawn to the available width. Colours come from the style sheet.

import { el, svg } from "./dom.js";

/** Draws again when the data or the width changes; returns a function that takes the data. */
export function responsive(box, height, draw) {
  let width = 0;
  let data = null;
  const paint = () => {
    if (data && width) box.replaceChildren(draw(data, width, height));
  };
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now !== width) {
      width = now;
      paint();
    }
  }).observe(box);
  return (next) => {
    data = next;
    paint();
  };
}

const linear = (from, to) => (value) => to[0] + ((value - from[0]) / (from[1] - from[0] || 1)) * (to[1] - to[0]);

/** 1, 2 and 5 times a power of ten between two numbers. */
function logTicks(low, high, most) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
  }
  const inside = found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  return inside.length > most ? inside.filter((tick) => Number.isInteger(Math.log10(tick))) : inside;
}

function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) found.push(tick);
  return found;
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** The range of y: the newest band and the line. Early bands, which are wide, may be cut. */
function range(points, line, floor) {
  const last = points.at(-1);
  const settled = points.slice(Math.floor(points.length / 3)).map((point) => point.estimate);
  const room = Math.max(Math.abs(line) * 3, (last.high - last.low) * 1.3);
  let low = Math.min(-Math.abs(line) * 1.5, last.low, ...settled);
  let high = Math.max(Math.abs(line) * 2.5, last.high, ...settled);
  low = Math.max(low - room * 0.25, floor);
  high += room * 0.25;
  return [low, high];
}

/**
 * The band of one metric over the number of pairs (logarithmic): it holds the true difference at every look.
 *
 * `data`: points `{n, estimate, low, high, revision}`, `line` and its words `lineText`, `zeroText` (or null), `up` (what
 * upwards means), `format`, `answer`, `floor` (the least value that there can be).
 */
export function bandChart(data, width, height) {
  const { line, format } = data;
  const banded = data.points.every((point) => Number.isFinite(point.low) && Number.isFinite(point.high));
  const points = banded ? data.points : data.points.map((point) => ({ ...point, low: point.estimate, high: point.estimate }));
  const [left, right, top, bottom] = [52, 14, 20, 34];
  const xs = runningMax(points.map((point) => Math.max(point.n, 1)));
  const [lowX, highX] = [Math.max(xs[0], 10), Math.max(xs.at(-1), 20)];
  const [lowY, highY] = range(points, line, data.floor);
  const scaleX = linear([Math.log(lowX), Math.log(highX)], [left, width - right]);
  const scaleY = linear([lowY, highY], [height - bottom, top]);
  const x = (n) => scaleX(Math.log(Math.max(n, lowX)));
  const y = (value) => Math.min(Math.max(scaleY(Math.min(Math.max(value, lowY), highY)), top), height - bottom);
  const place = (name) => points.map((point, i) => [x(xs[i]), y(point[name])]);
  const [uppers, lowers] = [place("high"), place("low")];
  const lastX = x(xs.at(-1));
  const lastY = y(points.at(-1).estimate);
  const edge = width - right;
  const spread = width < 420 ? 4 : 7;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": data.label, class: "band" },
    data.bare ? null : svg("rect", { class: "beyond", x: left, y: top, width: edge - left, height: Math.max(0, y(line) - top) }),
    ticks(lowY, highY, 4).map((tick) => [
      svg("line", { class: "gridline", x1: left, x2: edge, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick)),
    ]),
    logTicks(lowX, highX, spread).map((tick) =>
      svg("text", { class: "tick", x: x(tick), y: height - bottom + 16, "text-anchor": "middle" }, tick.toLocaleString("en"))),
    svg("text", { class: "axis", x: edge, y: height - 4, "text-anchor": "end" }, data.across),
    svg("text", { class: "axis", x: left, y: 12 }, data.up),
    marks(points, xs, x, top, height - bottom),
    banded && svg("path", { class: "area", d: `${path(uppers)}${path(lowers.reverse()).replace("M", "L")}Z` }),
    data.zeroText && lowY < 0 && highY > 0 ? [
      svg("line", { class: "zero", x1: left, x2: edge, y1: y(0), y2: y(0) }),
      svg("text", { class: "note", x: left + 6, y: Math.min(y(0) + 14, height - bottom - 3) }, data.zeroText),
    ] : null,
    data.bare ? null : svg("line", { class: "margin", x1: left, x2: edge, y1: y(line), y2: y(line) }),
    svg("text", { class: "note margin-note", x: left + 6, y: y(line) - 5 }, data.lineText),
    svg("path", { class: "estimate", d: path(place("estimate")) }),
    banded && svg("line", { class: "whisker", x1: lastX, x2: lastX, y1: y(points.at(-1).low), y2: y(points.at(-1).high) }),
    svg("circle", { class: `end ${data.answer}`, cx: lastX, cy: lastY, r: 5.5 }),
  );
}

/** Thin lines where a step started. */
function marks(points, xs, x, top, bottom) {
  return points.map((point, i) => (i && point.revision !== points[i - 1].revision
    ? svg("line", { class: "mark", x1: x(xs[i]), x2: x(xs[i]), y1: top, y2: bottom }) : null));
}

function runningMax(values) {
  let most = 0;
  return values.map((value) => (most = Math.max(most, value)));
}

/** Progress of the evidence towards a decision, as a bar that is full when it is decided. */
export function meter(name, value, tone, words) {
  const percent = Math.round(value * 100);
  const fill = el("span", { class: `fill ${tone}` });
  fill.style.setProperty("--value", `${percent}%`);
  return el("div", { class: "meter" },
    el("span", { class: "meter-name", title: words }, name),
    el("span", {
      class: "track", role: "meter", "aria-label": name, "aria-valuenow": percent, "aria-valuemin": 0, "aria-valuemax": 100,
    }, fill),
    el("span", { class: "meter-value" }, `${percent} %`));
}

const STEPS = [1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200]; // seconds between ticks of time

function timeTicks(from, to, most) {
  const step = STEPS.find((size) => (to - from) / size <= most) ?? 86400;
  const zone = new Date(to * 1000).getTimezoneOffset() * 60; // ticks at whole hours of the reader's clock
  const found = [];
  for (let tick = Math.ceil((from - zone) / step) * step + zone; tick <= to; tick += step) found.push(tick);
  const format = { hour: "2-digit", minute: "2-digit", second: step < 60 ? "2-digit" : undefined };
  return found.map((tick) => [tick, new Date(tick * 1000).toLocaleTimeString(undefined, format)]);
}

/** A line of steps, one per point, with gaps where there were no requests. */
function steps(points, x, y) {
  let before = null;
  return points.map(([since, until, value]) => {
    const joined = before !== null && Math.abs(since - before) < 0.01;
    before = until;
    return `${joined ? "L" : "M"}${x(since).toFixed(1)} ${y(value).toFixed(1)}H${x(until).toFixed(1)}`;
  }).join("");
}

/**
 * Values over time. `lines` are `{ variant, kind, points }`, points `[from, to, value]`; `log` for values of many sizes, else from zero;
 * `least` is the smallest height of the picture; `limit` and `limitText` a line across, or null.
 */
export function timeChart({ lines, from, to, log, least, limit, limitText, format, label }, width, height) {
  const [left, right, top, bottom] = [48, 6, 16, 20];
  const values = lines.flatMap(({ points }) => points.map(([, , value]) => value));
  const most = Math.max(least, ...values, ...(log && limit ? [limit] : [])) * (log ? 1.3 : 1.1);
  const low = log ? Math.max(Math.min(...values, most) * 0.8, most / 1e5) : 0;
  const scale = log ? linear([Math.log(low), Math.log(most)], [height - bottom, top]) : linear([0, most], [height - bottom, top]);
  const y = (value) => scale(log ? Math.log(Math.max(value, low)) : value);
  const x = linear([from, to], [left, width - right]);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, class: "time" },
    (log ? logTicks(low, most, 5) : ticks(0, most, 3)).map((tick) => [
      svg("line", { class: "gridline", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick", x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, format(tick)),
    ]),
    timeTicks(from, to, Math.max(2, Math.floor(width / 110))).map(([tick, text]) =>
      svg("text", { class: "tick", x: Math.min(Math.max(x(tick), left + 14), width - right - 28), y: height - 5, "text-anchor": "middle" }, text)),
    limit && limit <= most ? [
      svg("line", { class: "margin", x1: left, x2: width - right, y1: y(limit), y2: y(limit) }),
      svg("text", { class: "note margin-note", x: left + 6, y: y(limit) - 4 }, limitText),
    ] : null,
    lines.map(({ variant, kind, points }) => svg("path", { class: `line ${variant} ${kind}`, d: steps(points, x, y) })));
}

/** Median, 95th and 99th percentile of each variant on one line of milliseconds (logarithmic), with the limit. */
export function latencyChart({ rows, limit, label }, width, height) {
  const values = rows.flatMap(([, figures]) => figures).filter(Boolean);
  const [low, high] = [Math.min(0.5, ...values) * 0.8, Math.max(limit, ...values) * 1.5];
  const x = linear([Math.log(low), Math.log(high)], [8, width - 12]);
  const at = (value) => x(Math.log(value));
  const row = (height - 34) / rows.length;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, class: "latency" },
    logTicks(low, high, width < 300 ? 5 : 9).map((tick) => [
      svg("line", { class: "gridline", x1: at(tick), x2: at(tick), y1: 14, y2: height - 20 }),
      svg("text", { class: "tick", x: at(tick), y: height - 6, "text-anchor": "middle" }, String(Number(tick.toPrecision(1)))),
    ]),
    svg("line", { class: "margin", x1: at(limit), x2: at(limit), y1: 14, y2: height - 20 }),
    svg("text", { class: "note margin-note", x: at(limit) - 6, y: 11, "text-anchor": "end" }, `p99 goal: ${limit} ms`),
    rows.map(([variant, [p50, p95, p99]], i) => {
      if (!p50) return null;
      const middle = 14 + row * (i + 0.5);
      return [
        svg("line", { class: `span ${variant}`, x1: at(p50), x2: at(p99), y1: middle, y2: middle }),
        svg("circle", { class: `point ${variant}`, cx: at(p50), cy: middle, r: 5 }),
        svg("circle", { class: `point ${variant}`, cx: at(p95), cy: middle, r: 4 }),
        svg("rect", { class: `point ${variant}`, x: at(p99) - 2, y: middle - 8, width: 4, height: 16, rx: 1 }),
      ];
    }));
}
