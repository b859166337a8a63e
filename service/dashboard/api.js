// The service's own calls. Paths are relative, so that a proxy may put the service under a prefix.

const KEY = "understudy-token";
let token = sessionStorage.getItem(KEY);

/** What the service refused, in its own words (RFC 9457). */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? `the service answered ${status}`);
    this.status = status;
    this.errors = body.errors ?? [];
  }
}

export function remember(value) {
  token = value;
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

async function call(method, path, { body, headers = {} } = {}) {
  const own = { ...headers };
  if (token) own.Authorization = `Bearer ${token}`;
  if (body !== undefined) own["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method, headers: own, body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(10000),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

export const get = (path) => call("GET", path);

/** An operator's order; refused when the rollout has moved on from `revision`. */
export const order = (name, body, revision) =>
  call("POST", `rollout/${name}`, { body, headers: { "If-Match": `"${revision}"` } });

/** One row to one variant, pinned, and how long the round trip took. */
export async function predict(row, variant) {
  const began = performance.now();
  const answer = await call("POST", "predict", { body: { rows: [row] }, headers: { "X-Rollout-Variant": variant } });
  return { ...answer, milliseconds: performance.now() - began };
}
