// The service's own calls. Paths are relative, so that a proxy may put the service under a prefix.

const KEY = "understudy-token";
let token = sessionStorage.getItem(KEY);
const cached = new Map(); // path → its last answer and its entity tag, for the few paths that are polled

/** An error that the service answered (problem details, RFC 9457). */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? `the service answered ${status}`);
    this.status = status;
    this.errors = body.errors ?? [];
  }
}

export function remember(value) {
  token = value;
  cached.clear();
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

async function send(method, path, { body, headers = {} } = {}) {
  const own = { ...headers };
  if (token) own.Authorization = `Bearer ${token}`;
  if (body !== undefined) own["Content-Type"] = "application/json";
  return fetch(path, {
    method, headers: own, body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(10000),
  });
}

async function read(response) {
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

const call = async (method, path, options) => read(await send(method, path, options));

export const get = (path) => call("GET", path);

/** The same for a polled path. While nothing changes, the service answers 304 without a body. */
export async function getPolled(path) {
  const before = cached.get(path);
  const response = await send("GET", path, before && { headers: { "If-None-Match": before.tag } });
  if (response.status === 304 && before) return before.answer;
  const answer = await read(response);
  cached.set(path, { tag: response.headers.get("ETag"), answer });
  return answer;
}

/** An operator's order. It is rejected if the rollout is no longer at `revision`. */
export const order = (name, body, revision) =>
  call("POST", `rollout/${name}`, { body, headers: { "If-Match": `"${revision}"` } });

/** The prediction for one row, pinned to a variant, and the time of the round trip. */
export async function predict(row, variant) {
  const began = performance.now();
  const answer = await call("POST", "predict", { body: { rows: [row] }, headers: { "X-Rollout-Variant": variant } });
  return { ...answer, milliseconds: performance.now() - began };
}
