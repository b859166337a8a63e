// Asks the service now and then, and hands what it says to the parts of the page. Any worker may answer any call.

import { get, getAgain, Problem, remember } from "./api.js";
import { byId, el, say } from "./dom.js";
import { showDrift } from "./drift.js";
import { showEvidence } from "./evidence.js";
import { prepareFigures, showFigures } from "./figures.js";
import { showLog } from "./log.js";
import { showFunnel } from "./funnel.js";
import { prepareOrders, showOrders } from "./orders.js";
import { followTraffic, prepareTraffic, showTraffic } from "./traffic.js";
import { prepareTry } from "./try.js";
import { showNow, showSteps, showVerdict } from "./verdict.js";

const EVERY_MS = 1500;
const SLOW_EVERY = 4; // what changes slowly is asked for every so many looks
const MANY = 100; // points of the bands: one more is hardly seen

let policy = null;
let me = null;
let events = [];
let evidence = null;
let looks = 0;
let seen = null; // when the service last answered
let timer = 0;
let turns = Promise.resolve();

async function begin() {
  me = await get("rollout/access");
  policy = await get("rollout/policy");
  byId("sign-in").hidden = true;
  byId("page").hidden = false;
  say(byId("model"), policy.model);
  showWho();
  const operator = me.role === "operator";
  byId("try").hidden = !operator;
  const state = await getAgain("rollout");
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

/** The events after the last one that is known. */
async function follow() {
  for (;;) {
    const { events: more } = await get(`rollout/events?after=${events.at(-1)?.id ?? 0}&limit=1000`);
    events = events.concat(more);
    if (more.length < 1000) return;
  }
}

async function look() {
  if (!policy) await begin();
  const state = await getAgain("rollout");
  if (events.at(-1)?.revision !== state.revision || looks % SLOW_EVERY === 0) await follow();
  if (!evidence || looks % (evidence.bands.length > MANY ? SLOW_EVERY : 2) === 0) evidence = await getAgain("rollout/evidence");
  if (state.drift && looks % SLOW_EVERY === 0) showDrift(await getAgain("rollout/drift"));
  if (looks % 2 === 0) await followTraffic();
  looks += 1;
  seen = Date.now();
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

/** One look after the other: two at once would both add what is new. */
const turn = () => (turns = turns.then(turnOnce));

async function turnOnce() {
  clearTimeout(timer);
  let next = EVERY_MS;
  try {
    if (!document.hidden) await look();
  } catch (error) {
    if (error instanceof Problem && [401, 403].includes(error.status)) {
      policy = null;
      askForToken(sessionStorage.length ? error.message : "");
      return;
    }
    const ago = seen ? `; what you see is from ${new Date(seen).toLocaleTimeString()}` : "";
    say(byId("live"), `${error instanceof Problem ? error.message : "the service does not answer"}${ago}`);
    byId("live").className = "live off";
    next = EVERY_MS * 2;
    if (!(error instanceof Problem) && error.name !== "TypeError" && error.name !== "TimeoutError") console.error(error);
  }
  timer = setTimeout(turn, next);
}

byId("sign-in").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  remember(byId("token").value.trim());
  byId("token").value = "";
  turn();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) turn();
});
byId("log-drift").addEventListener("change", () => showLog(events));
prepareFigures();
prepareTraffic();
prepareOrders(turn);
turn();
