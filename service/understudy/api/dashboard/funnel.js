// The funnel: rows and labels by stage as bars, with the reasons why some were lost there.

import { byId, el, onChange, withCode } from "./dom.js";
import { count } from "./format.js";

const STAGES = {
  answered: "answered", rehearsed: "run on both models", labelled: "with a label", settled: "settled", counted: "counted",
  received: "labels received", matched: "matched to a prediction",
};

function bar(stage, most) {
  const width = stage.count ? Math.max((stage.count / most) * 100, 0.5) : 0;
  const fill = el("span", { class: "fill" });
  fill.style.setProperty("--value", `${width}%`);
  return el("li", {},
    el("span", { class: "name" }, STAGES[stage.stage] ?? stage.stage, " ", el("strong", {}, count(stage.count))),
    el("span", { class: "track", "aria-hidden": "true" }, fill),
    stage.lost.length ? el("ul", { class: "lost" }, ...stage.lost.map((lost) =>
      el("li", {}, el("strong", {}, count(lost.count)), ` ${lost.reason}`, ". ", el("span", { class: "soft" }, withCode(lost.hint))))) : null);
}

function picture(title, stages) {
  return el("article", { class: "card" }, el("h3", {}, title),
    el("ol", { class: "funnel" }, ...stages.map((stage) => bar(stage, stages[0].count))));
}

export const showFunnel = onChange((rows, labels) => {
  const drawn = [["Prediction rows", rows], ["Labels", labels]].filter(([, stages]) => stages?.[0]?.count);
  byId("funnel-section").hidden = !drawn.length;
  byId("funnel").replaceChildren(...drawn.map(([title, stages]) => picture(title, stages)));
});
