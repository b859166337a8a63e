// The head of the page: the verdict, the traffic split, and the steps.

import { byId, el, onChange, say, withCode } from "./dom.js";
import { count, duration, PHASES, sentence, share } from "./format.js";

const ANSWERS = {
  advance: ["good", "✓ Advance"],
  hold: ["warn", "… Hold"],
  rollback: ["bad", "✕ Roll back"],
};
const TONES = { promoted: "good", aborted: "bad", waiting: "warn", paused: "warn" };

/**
 * The reasons of the verdict, in sentences: the judge's own, or why the rollout ended. After a promotion by the judge they are the
 * reasons of all metrics at that decision.
 */
function reasons(state, decision) {
  const advanced = state.phase === "promoted" && decision?.actor === "judge";
  if (!advanced) return sentence(state.verdict.reason) === sentence(state.headline) ? [] : [state.verdict.reason];
  const standing = state.shadow_share ? state.verdict.reason : "the bake is over, and the old primary was released";
  return [...decision.details.metrics.filter((metric) => metric.answer === "advance").map((metric) => metric.reason), standing];
}

const showReasons = onChange((sentences) => {
  byId("reason").replaceChildren(...sentences.map((text) => el("p", {}, withCode(sentence(text)))));
});

const showLeft = onChange((labels, requests, seconds) => {
  const box = byId("left");
  const more = [labels && `${count(labels)} more labels`, requests && `${count(requests)} more requests`].filter(Boolean);
  box.hidden = !more.length;
  if (more.length) say(box, `About ${more.join(" and ")}${seconds ? `, ${duration(seconds)} at the current rate` : ""}`);
});

export function showVerdict(state, decision) {
  const [tone, word] = ANSWERS[state.verdict.answer];
  const ended = ["promoted", "aborted", "serving"].includes(state.phase);
  const phase = byId("phase");
  say(phase, PHASES[state.phase]);
  phase.className = `badge ${TONES[state.phase] ?? "plain"}`;
  const answer = byId("answer");
  answer.hidden = ended;
  answer.className = `badge ${tone}`;
  say(answer, word);
  byId("verdict").dataset.tone = TONES[state.phase] ?? tone;
  say(byId("headline"), state.headline);
  showReasons(reasons(state, decision));
  const { labels_left: labels, requests_left: requests, seconds_left: seconds } = state.verdict;
  showLeft(ended ? null : labels, ended ? null : requests, seconds);
  document.title = `${PHASES[state.phase]} · ${state.model}`;
}

/** Why a model is unavailable: it is down, or it is the old primary, released after the promotion. */
const unavailable = (variant, phase) =>
  (variant === "primary" && phase === "promoted" ? el("span", { class: "badge" }, "released") : el("span", { class: "badge bad" }, "down, being probed"));

export const showNow = onChange((primary, candidate, weight, shadow, phase) => {
  const bar = byId("split");
  bar.setAttribute("aria-label", `${share(100 - weight)} primary, ${share(weight)} candidate`);
  bar.style.setProperty("--weight", `${weight}%`);
  bar.replaceChildren(
    el("span", { class: "of-primary" }, weight < 100 ? share(100 - weight) : ""),
    el("span", { class: "of-candidate" }, weight > 0 ? share(weight) : ""),
  );
  const rows = [["primary", primary], ["candidate", candidate]].filter(([, model]) => model);
  byId("models").replaceChildren(...rows.flatMap(([variant, model]) => [
    el("dt", {}, el("span", { class: `swatch ${variant}` }), variant),
    el("dd", {}, el("strong", {}, model.name), ` ${model.version}`,
      model.up ? null : unavailable(variant, phase),
      el("code", { title: model.digest }, model.digest.replace("sha256:", "").slice(0, 10))),
  ]));
  if (candidate && shadow > 0) {
    byId("models").append(el("dt", {}, "rehearsal"), el("dd", {}, `the other model also runs on ${share(shadow)} of the requests`));
  }
});

function stepText(step) {
  if (step.kind === "promote") return ["Promote", "100 %"];
  return [PHASES[step.kind], share(step.share)];
}

function conditions(step) {
  const { labels, requests, duration: lasts } = step.until;
  const until = [labels && `${count(labels)} labels`, requests && `${count(requests)} requests`, lasts && duration(lasts)];
  const words = until.filter(Boolean).map((word) => `at least ${word}`);
  const needed = { loadtest: "a load test", approval: "an approval" };
  return [...words, ...step.require.map((word) => `needs ${needed[word] ?? word}`)].join("; ");
}

export const showSteps = onChange((steps, phase, current) => {
  const path = phase === "aborted" ? "stopped" : "current";
  byId("steps").replaceChildren(...steps.map((step, i) => {
    const place = phase === "promoted" || i < current ? "done" : i === current ? path : "ahead";
    const [name, amount] = stepText(step);
    const words = { done: "done", current: "now", stopped: "stopped here", ahead: "" }[place];
    return el("li", { class: place, "aria-current": place === "current" ? "step" : null },
      el("span", { class: "dot", "aria-hidden": "true" }, place === "done" ? "✓" : place === "stopped" ? "✕" : ""),
      el("span", { class: "name" }, name, " ", el("span", { class: "amount" }, amount)),
      words ? el("span", { class: "word" }, words) : null, el("span", { class: "cond" }, conditions(step)));
  }));
  if (current < 0) byId("steps").append(el("li", { class: "current by-hand", "aria-current": "step" },
    el("span", { class: "dot", "aria-hidden": "true" }), el("span", { class: "name" }, "By hand"),
    el("span", { class: "cond" }, "only harm is judged")));
});
