// Elements made one by one, never from HTML: text stays text, and the Content-Security-Policy has nothing to allow.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...shown(children));
  return node;
}

const shown = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** Put these in the place of what is there; null is nothing. */
export const replace = (node, ...children) => node.replaceChildren(...shown(children));

/** An HTML element: `el("p", {class: "soft"}, "text")`; attributes that begin with `on` are listeners. */
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** The same in SVG. */
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Set a text only when it changes, so that a screen reader hears news and nothing else. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A sentence with its `code` between backticks, as children of `el`. */
export const withCode = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

/** The same as `say` for a sentence with code. */
export function sayCode(node, text) {
  if (node.textContent !== text.replaceAll("`", "")) node.replaceChildren(...withCode(text));
}

/** A function that renders only when what it is given has changed. */
export function onChange(render) {
  let before;
  return (...given) => {
    const now = JSON.stringify(given);
    if (now !== before) {
      before = now;
      render(...given);
    }
  };
}
