// Elements without markup in strings: nothing that is shown is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. `properties` beginning with "on" are listeners, the rest attributes. */
export function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same for SVG. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Change a text only where it differs: a screen reader would read it again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Draw anew only where `key` is another than at the last call, so that focus is not lost. */
export function redraw(element, key, children) {
  const text = JSON.stringify(key);
  if (element.dataset.drawn === text) return;
  element.dataset.drawn = text;
  element.replaceChildren(...children().flat().filter((child) => child != null));
}

// One shape per mode, so that colour alone never says it.
const SHAPES = {
  ready: ["M17 25l5 5 10-11"],
  duty_cycled: ["M24 14v10l7 4"],
  paused: ["M19 16v16", "M29 16v16"],
  gaming: ["M15 24h8", "M19 20v8", "M29 21.5v.1", "M32.5 26.5v.1"],
  hot: ["M24 14v13", "M24 32v.1"],
  quiet_hours: ["M27 15a9.5 9.5 0 1 0 7 14 8 8 0 0 1-7-14z"],
  draining: ["M24 14v15", "M17 23l7 7 7-7"],
  broken: ["M17 17l14 14", "M31 17l-14 14"],
  unread: ["M17 24h.1", "M24 24h.1", "M31 24h.1"],
};
const WRONG = ["hot", "broken"];
const WORKS = ["ready", "duty_cycled"];

/** The sign of a mode: filled while it works, red where something is wrong, else an outline. */
export function sign(mode) {
  const colour = WRONG.includes(mode) ? "var(--m-hot)" : WORKS.includes(mode) ? "var(--accent)" : "var(--m-game)";
  const full = WORKS.includes(mode) || WRONG.includes(mode);
  const ring = mode === "hot"
    ? svg("path", { d: "M24 4l21 38H3z", fill: colour, stroke: colour, "stroke-width": 4, "stroke-linejoin": "round" })
    : svg("circle", { cx: 24, cy: 24, r: 21, fill: full ? colour : "none", stroke: colour, "stroke-width": 3 });
  const marks = (SHAPES[mode] || SHAPES.unread).map((d) => svg("path", {
    d, fill: "none", stroke: full ? "var(--on-accent)" : colour, "stroke-width": 4, "stroke-linecap": "round", "stroke-linejoin": "round",
  }));
  return svg("svg", { viewBox: "0 0 48 48", "aria-hidden": "true" }, ring, marks);
}
