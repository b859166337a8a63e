// The audit log: who, when, what, why; newest first.

import { byId, el } from "./dom.js";
import { EVENTS, PHASES, sentence, share, time } from "./format.js";

const SHOWN = 200;
let shown = null; // the newest event that is on the page
const TONES = { advance: "good", finish: "good", promote: "good", promote_full: "good", rollback: "bad", abort: "bad", undo: "bad" };

function change({ details }) {
  if (!details.to) return "";
  const from = details.from_weight === undefined ? "" : ` ${share(details.from_weight)}`;
  const to = details.weight === undefined || details.to === "aborted" ? "" : ` ${share(details.weight)}`;
  return `${PHASES[details.from]}${from} → ${PHASES[details.to]}${to}`;
}

/** A long reason opens at a click; what it begins with is always there. */
function why(text) {
  if (!text) return "–";
  const cut = text.indexOf("), ");
  if (text.length < 170 || cut < 0) return sentence(text);
  return el("details", {}, el("summary", {}, `${sentence(text.slice(0, cut + 1)).slice(0, -1)} …`), sentence(text.slice(cut + 3)));
}

export function showLog(events) {
  if (events.at(-1)?.id === shown) return;
  shown = events.at(-1)?.id;
  byId("log").replaceChildren(...events.slice(-SHOWN).reverse().map((event) => el("tr", {},
    el("td", {}, el("time", { datetime: new Date(event.at * 1000).toISOString() }, time(event.at))),
    el("td", {}, event.actor),
    el("td", {}, el("span", { class: `badge ${TONES[event.kind] ?? "plain"}` }, EVENTS[event.kind] ?? event.kind.replaceAll("_", " ")),
      el("span", { class: "change" }, change(event))),
    el("td", { class: "why" }, why(event.reason)))));
}
