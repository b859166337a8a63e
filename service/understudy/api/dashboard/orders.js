// The operator's buttons. Each asks for a reason and describes its effect. An order is rejected if the revision has changed.

import { order, Problem } from "./api.js";
import { byId, el, onChange, say } from "./dom.js";

const ORDERS = {
  promote: ["Promote one step", "solid", "The candidate goes to the next step now, without waiting for the judge."],
  promote_full: ["Promote fully", "", "The candidate answers every request from now on. The remaining steps are skipped."],
  weight: ["Set weight", "", "The candidate answers this share of the requests. From then on only harm is judged. 0 sends it back to shadow."],
  pause: ["Pause", "", "The weight stays as it is until an operator resumes. The candidate is still rolled back if it does harm."],
  resume: ["Resume", "solid", "The judge continues where it stopped."],
  abort: ["Abort", "danger", "The candidate is taken off at once: the primary answers every request."],
  retry: ["Retry", "solid", "The rollout starts again at its first step. The evidence about these models stays."],
  undo: ["Undo promotion", "danger", "The old primary answers every request again."],
};

let revision = 0; // that the page shows
let decidedOn = 0; // the revision that was shown when the dialog opened
let chosen = null;
let done = () => {};

function open(name) {
  const [title, kind, about] = ORDERS[name];
  chosen = name;
  decidedOn = revision;
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

async function submit(event) {
  event.preventDefault();
  const reason = byId("why").value.trim();
  if (!reason) return say(byId("order-problem"), "Enter a reason. It goes into the audit log.");
  const body = { reason };
  if (chosen === "promote_full") body.full = true;
  if (chosen === "weight") body.weight = Number(byId("weight").value);
  if (byId("force").checked) body.force = true;
  byId("order-yes").disabled = true;
  try {
    await order(chosen === "promote_full" ? "promote" : chosen, body, decidedOn);
    byId("order").close();
  } catch (error) {
    const words = error instanceof Problem ? error.message : "The service does not answer, so the order may not have been carried out. Check the state and try again.";
    say(byId("order-problem"), words);
    byId("order-force").hidden = !/force/.test(words); // the service's message says when an order may be forced
  } finally {
    byId("order-yes").disabled = false;
    await done();
  }
  return undefined;
}

/** `after` is called after each order, accepted or rejected. */
export function prepareOrders(after) {
  done = after;
  byId("order").querySelector("form").addEventListener("submit", submit);
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
