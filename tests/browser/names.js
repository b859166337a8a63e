// What a screen reader needs: names of controls, one h1, headings without gaps, landmarks, unique ids, alt texts.
() => {
  const found = [];
  const visible = (node) => node.checkVisibility({ visibilityProperty: true });
  const name = (node) =>
    (node.getAttribute("aria-label") ?? "") || (node.labels?.[0]?.textContent ?? "") ||
    (node.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("") ||
    (["BUTTON", "A", "SUMMARY"].includes(node.tagName) ? node.textContent : "");
  for (const node of document.querySelectorAll("button, a, input, textarea, select, summary, [role=img], [role=meter], [role=region], section, dialog")) {
    if (visible(node) && !name(node).trim()) found.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  }
  for (const node of document.querySelectorAll("img:not([alt])")) found.push(`no alt: ${node.outerHTML}`);
  const levels = [...document.querySelectorAll("h1, h2, h3")].filter(visible).map((node) => Number(node.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1) found.push(`h1: ${levels}`);
  levels.forEach((level, i) => { if (i && level > levels[i - 1] + 1) found.push(`a heading level is left out: ${levels}`); });
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  const twice = ids.filter((id, i) => ids.indexOf(id) !== i);
  if (twice.length) found.push(`twice: ${twice}`);
  for (const node of document.querySelectorAll("[aria-describedby], [aria-labelledby]")) {
    for (const id of `${node.getAttribute("aria-describedby") ?? ""} ${node.getAttribute("aria-labelledby") ?? ""}`.split(" ").filter(Boolean)) {
      if (!document.getElementById(id)) found.push(`names ${id}, which is not there`);
    }
  }
  for (const landmark of ["header", "main", "footer"]) if (!document.querySelector(landmark)) found.push(`no ${landmark}`);
  for (const node of document.querySelectorAll("th:not([scope])")) found.push(`th without scope: ${node.textContent}`);
  if (!document.documentElement.lang || !document.title) found.push("no language or title");
  return found;
}
