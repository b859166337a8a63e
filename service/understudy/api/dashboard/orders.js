// The operator's buttons. Each asks for a reason, says what will happen, and is refused when the rollout has moved on.

import { order, Problem } from "./api.js";
import { byId, el, onChange, say } from "./dom.js";

const ORDERS = {
  promote: ["Promote one step", "solid", "The candidate goes to the next step now, without waiting for the judge."],
  promote_full: ["Promote fully", "", "The candidate answers every request from now on. The steps that are left are skipped."],
  weight: ["Set weight", "", "The candidate answers this share of the requests. Only harm is judged then. 0 sends it back to shadow."],
  pause: ["Pause", "", "The weight stays as it is until somebody resumes. Harm still takes the candidate off."],
  resume: ["Resume", "solid", "The judge goes on from where it was."],
  abort: ["Abort", "danger", "The candidate is taken off at once: the primary answers every request."],
  retry: ["Begin again", "solid", "The rollout starts at its first step. The evidence about these models stays."],
  undo: ["Take back", "danger", "The promotion is taken back: the old primary answers every request."],
};

let revision = 0; // as the page shows it
let judged = 0; // as it was when the dialog was opened: what the person decided on
let chosen = null;
let done = () => {};

function open(name) {
  const [title, kind, about] = ORDERS[name];
  chosen = name;
  judged = revision;
  say(byId("order-title"), title);
  say(byId("order-about"), about);
  say(byId("order-problem"), "");
  byId("order-weight").hidden = name !== "weight";
  byId("weight").required = name === "weight";
  byId("why").value = "";
  byId("order-force").hidden = true;
  byId("force").checked = false;
  const yes = byId("order-yes");
  say(yes, title);
  yes.className = kind || "solid";
  yes.disabled = false;
  byId("order").showModal();
  byId(name === "weight" ? "weight" : "why").focus();
}

async function give(event) {
  event.preventDefault();
  const reason = byId("why").value.trim();
  if (!reason) return say(byId("order-problem"), "A reason is needed: it goes into the log.");
  const body = { reason };
  if (chosen === "promote_full") body.full = true;
  if (chosen === "weight") body.weight = Number(byId("weight").value);
  if (byId("force").checked) body.force = true;
  byId("order-yes").disabled = true;
  try {
    await order(chosen === "promote_full" ? "promote" : chosen, body, judged);
    byId("order").close();
  } catch (error) {
    const words = error instanceof Problem ? error.message : "The service does not answer; nothing was done.";
    say(byId("order-problem"), words);
    byId("order-force").hidden = !/force/.test(words); // the service says when an order may be forced
  } finally {
    byId("order-yes").disabled = false;
    await done();
  }
  return undefined;
}

/** `after` is called when an order was given, or refused. */
export function prepareOrders(after) {
  done = after;
  byId("order").querySelector("form").addEventListener("submit", give);
  byId("order-no").addEventListener("click", () => byId("order").close());
}

const showButtons = onChange((allowed, role) => {
  const box = byId("orders");
  const mine = role === "operator" ? allowed.filter((name) => ORDERS[name]) : [];
  box.hidden = !mine.length;
  box.replaceChildren(...mine.map((name) =>
    el("button", { type: "button", class: ORDERS[name][1], onclick: () => open(name) }, ORDERS[name][0])));
});

export function showOrders(state, role) {
  revision = state.revision;
  showButtons(state.allowed, role);
}
