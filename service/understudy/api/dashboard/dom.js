// Creates elements one by one, never from HTML, so text stays text and the Content-Security-Policy allows nothing.

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

/** Replaces all children; null is skipped. */
export const replace = (node, ...children) => node.replaceChildren(...shown(children));

/** Creates an HTML element: `el("p", {class: "soft"}, "text")`. Attributes that start with `on` are listeners. */
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** Creates an SVG element. */
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Sets a text only when it changes, so that a screen reader announces changes alone. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The children of an element for a sentence with code between backticks. */
export const withCode = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

/** Like `say`, for a sentence with code. */
export function sayCode(node, text) {
  if (node.textContent !== text.replaceAll("`", "")) node.replaceChildren(...withCode(text));
}

/** A function that renders only when its arguments have changed. */
export function onChange(render) {
  let before;
  return (...args) => {
    const now = JSON.stringify(args);
    if (now !== before) {
      before = now;
      render(...args);
    }
  };
}
