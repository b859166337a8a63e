// Polls the service and passes its documents to the parts of the page. Any worker may answer any call.

import { get, getPolled, Problem, remember } from "./api.js";
import { byId, el, say } from "./dom.js";
import { showDrift } from "./drift.js";
import { showEvidence } from "./evidence.js";
import { prepareFigures, showFigures } from "./figures.js";
import { showLog } from "./log.js";
import { showFunnel } from "./funnel.js";
import { prepareOrders, showOrders } from "./orders.js";
import { fetchTraffic, prepareTraffic, showTraffic } from "./traffic.js";
import { prepareTry } from "./try.js";
import { showNow, showSteps, showVerdict } from "./verdict.js";

const POLL_MS = 1500;
const SLOW_EVERY = 4; // documents that change slowly are fetched with every fourth poll
const MANY_POINTS = 100; // with so many points of the bands, one more hardly shows

let policy = null;
let me = null;
let events = [];
let evidence = null;
let polls = 0;
let answeredAt = null; // when the service last answered
let timer = 0;
let queue = Promise.resolve();

async function begin() {
  me = await get("rollout/access");
  policy = await get("rollout/policy");
  byId("sign-in").hidden = true;
  byId("page").hidden = false;
  say(byId("model"), policy.model);
  showWho();
  const operator = me.role === "operator";
  byId("try").hidden = !operator;
  const state = await getPolled("rollout");
  if (operator) prepareTry(policy, Boolean(state.candidate));
}

function showWho() {
  const out = el("button", { type: "button", class: "quiet", onclick: () => signOut() }, "Sign out");
  byId("who").replaceChildren(`${me.name}, ${me.role}`, ...(me.tokens ? [" ", out] : []));
}

function signOut() {
  remember(null);
  location.reload();
}

function askForToken(problem) {
  byId("page").hidden = true;
  byId("sign-in").hidden = false;
  if (problem) say(byId("sign-in").querySelector("[role=alert]"), problem);
  byId("token").focus();
}

/** Fetches the events after the last one. */
async function fetchEvents() {
  for (;;) {
    const { events: more } = await get(`rollout/events?after=${events.at(-1)?.id ?? 0}&limit=1000`);
    events = events.concat(more);
    if (more.length < 1000) return;
  }
}

async function poll() {
  if (!policy) await begin();
  const state = await getPolled("rollout");
  if (events.at(-1)?.revision !== state.revision || polls % SLOW_EVERY === 0) await fetchEvents();
  if (!evidence || polls % (evidence.bands.length > MANY_POINTS ? SLOW_EVERY : 2) === 0) evidence = await getPolled("rollout/evidence");
  if (state.drift && polls % SLOW_EVERY === 0) showDrift(await getPolled("rollout/drift"));
  if (polls % 2 === 0) await fetchTraffic();
  polls += 1;
  answeredAt = Date.now();
  const decision = events.findLast(({ details }) => details.to === state.phase && details.from !== details.to);
  showVerdict(state, decision);
  showNow(state.primary, state.candidate, state.weight, state.shadow_share, state.phase);
  showSteps(policy.steps, state.phase, state.step);
  showOrders(state, me.role);
  showEvidence(state, evidence, policy);
  showFunnel(state.funnel, state.labels.funnel);
  showFigures(state, policy);
  showTraffic(policy.goals.latency.p99_ms);
  showLog(events);
  say(byId("live"), "live");
  byId("live").className = "live on";
}

/** Polls run one after the other: two at once would both add the new events. */
const refresh = () => (queue = queue.then(refreshOnce));

async function refreshOnce() {
  clearTimeout(timer);
  let next = POLL_MS;
  try {
    if (!document.hidden) await poll();
  } catch (error) {
    if (error instanceof Problem && [401, 403].includes(error.status)) {
      policy = null;
      askForToken(sessionStorage.length ? error.message : "");
      return;
    }
    const age = answeredAt ? `; this page shows the state of ${new Date(answeredAt).toLocaleTimeString()}` : "";
    say(byId("live"), `${error instanceof Problem ? error.message : "the service does not answer"}${age}`);
    byId("live").className = "live off";
    next = POLL_MS * 2;
    if (!(error instanceof Problem) && error.name !== "TypeError" && error.name !== "TimeoutError") console.error(error);
  }
  timer = setTimeout(refresh, next);
}

byId("sign-in").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  remember(byId("token").value.trim());
  byId("token").value = "";
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
byId("log-drift").addEventListener("change", () => showLog(events));
prepareFigures();
prepareTraffic();
prepareOrders(refresh);
refresh();
