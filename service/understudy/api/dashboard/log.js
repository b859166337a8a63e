// The audit log, newest event first.

import { byId, el } from "./dom.js";
import { EVENTS, PHASES, sentence, share, time } from "./format.js";

const SHOWN = 200;
let shown = null; // the newest event on the page, and whether drift alarms are shown
const TONES = { advance: "good", finish: "good", promote: "good", promote_full: "good", rollback: "bad", abort: "bad", undo: "bad" };

function change({ details }) {
  if (!details.to) return "";
  const from = details.from_weight === undefined ? "" : ` ${share(details.from_weight)}`;
  const to = details.weight === undefined || details.to === "aborted" ? "" : ` ${share(details.weight)}`;
  return `${PHASES[details.from]}${from} → ${PHASES[details.to]}${to}`;
}

/** The event in a word or two. A drift alarm is raised and cleared. */
function name({ kind, details }) {
  if (kind === "drift" && details.alarm === "off") return "drift alarm cleared";
  return EVENTS[kind] ?? kind.replaceAll("_", " ");
}

function tone({ kind, details }) {
  if (kind === "drift") return details.alarm === "on" ? "warn" : "plain";
  if (kind === "loadtest") return details.verdict === "pass" ? "good" : "warn";
  return TONES[kind] ?? "plain";
}

/** A long reason is collapsed to its first part. */
function why(text) {
  if (!text) return "–";
  const cut = text.indexOf("), ");
  if (text.length < 170 || cut < 0) return sentence(text);
  return el("details", {}, el("summary", {}, `${sentence(text.slice(0, cut + 1)).slice(0, -1)} …`), sentence(text.slice(cut + 3)));
}

export function showLog(events) {
  const all = byId("log-drift").checked;
  const now = `${events.at(-1)?.id} ${all}`;
  if (now === shown) return;
  shown = now;
  byId("log-filter").hidden = !events.some((event) => event.kind === "drift");
  const wanted = all ? events : events.filter((event) => event.kind !== "drift");
  byId("log").replaceChildren(...wanted.slice(-SHOWN).reverse().map((event) => el("tr", {},
    el("td", {}, el("time", { datetime: new Date(event.at * 1000).toISOString() }, time(event.at))),
    el("td", {}, event.actor),
    el("td", {}, el("span", { class: `badge ${tone(event)}` }, name(event)),
      el("span", { class: "change" }, change(event))),
    el("td", { class: "why" }, why(event.reason)))));
}
