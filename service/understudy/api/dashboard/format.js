// Formats of numbers and times, and the names of metrics, phases and events.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));

export function number(value, digits = 3) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
}

/** A loss in its own unit, with the decimals that a margin of this size needs: 12,346 beside 500, 0.012 beside 0.005. */
export function raw(value, line) {
  if (value === null || value === undefined) return "–";
  const power = Math.floor(Math.log10(Math.abs(line) || 1));
  const digits = Math.min(12, Math.max(power >= 0 ? 0 : 3, power >= 0 ? 2 - power : -power));
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace(/^-(0\.?0*)$/, "$1");
}

export function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : `${number(value * 100, digits)} %`;
}

/** A share that is already in percent, without needless zeros. */
export const share = (value) => `${Number(value.toFixed(2))} %`;

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Number((seconds / size).toPrecision(2))} ${unit}`;
  }
  return `${Number(seconds.toPrecision(2))} s`;
}

export const time = (seconds) =>
  new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** Makes a sentence of a reason, which the judge writes without capital letter and full stop. */
export function sentence(text) {
  const trimmed = text.trim();
  if (!trimmed) return "";
  const first = trimmed[0].toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

export const METRICS = {
  brier: "Brier score",
  log_loss: "Log loss",
  zero_one: "Wrong answers",
  absolute_error: "Absolute error",
  squared_error: "Squared error",
  win_rate: "Nearer to the truth",
  errors: "Failures",
  latency: "Late or missing answers",
  poc_target: "The primary's own target",
  request_errors: "Failures of all requests",
  serving_errors: "Failures that the candidate caused",
  latency_p50: "Median latency, relative to the primary",
  latency_p95: "p95 latency, relative to the primary",
  latency_p99: "p99 latency, relative to the primary",
};

export const PHASES = {
  serving: "Serving",
  shadow: "Shadow",
  canary: "Canary",
  waiting: "Waiting",
  paused: "Paused",
  promoted: "Promoted",
  aborted: "Taken off",
};

export const EVENTS = {
  started: "started",
  advance: "advanced",
  finish: "promoted",
  wait: "waits for approval",
  rollback: "rolled back",
  promote: "advanced by hand",
  promote_full: "promoted by hand",
  weight: "set the weight",
  shadow: "sent back to shadow",
  pause: "paused",
  resume: "resumed",
  abort: "aborted",
  retry: "started again",
  undo: "promotion taken back",
  release: "released the old primary",
  loadtest: "filed a load test",
  drift: "drift alarm raised",
};
