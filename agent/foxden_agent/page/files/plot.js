// Curves over time with the modes below them, drawn as SVG. No library, no styles in attributes.

import { svg } from "./dom.js";
import { clock } from "./words.js";

const LEFT = 46, RIGHT = 10, TOP = 8, BOTTOM = 6;

/** Round steps for an axis from 0 or near: at most `most` lines. */
export function ticks(low, high, most) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const made = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1000; at += step) made.push(at);
  return made;
}

/** Times at round minutes between two Unix seconds. */
export function times(from, to, most) {
  const steps = [60, 300, 600, 900, 1800, 3600, 7200];
  const step = steps.find((one) => (to - from) / one <= most) || 14400;
  const shift = new Date(from * 1000).getTimezoneOffset() * 60;
  const made = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) made.push(at);
  return made;
}

/** One curve. `points` are [seconds, value or null]; `range` [low, high]; answers with the SVG. */
export function curve(points, { from, to, range, width, height, label }) {
  const x = (at) => LEFT + ((at - from) / (to - from || 1)) * (width - LEFT - RIGHT);
  const y = (value) => height - BOTTOM - ((value - range[0]) / (range[1] - range[0] || 1)) * (height - TOP - BOTTOM);
  const lines = ticks(range[0], range[1], 4).map((at) => [
    svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at) }),
    svg("text", { x: LEFT - 8, y: y(at) + 4, "text-anchor": "end" }, String(Math.round(at * 10) / 10)),
  ]);
  const parts = stretches(points);
  const paths = parts.map((part) => {
    const line = part.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join("L");
    const ends = `L${x(part.at(-1)[0]).toFixed(1)},${y(range[0])}L${x(part[0][0]).toFixed(1)},${y(range[0])}Z`;
    return [svg("path", { class: "area", d: `M${line}${ends}` }), svg("path", { class: "curve", d: `M${line}` })];
  });
  const mark = svg("g", { class: "mark" });
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label }, lines.flat(), paths.flat(), mark);
  return { element: made, point: (found) => mark.replaceChildren(...(found ? [
    svg("line", { class: "here", x1: x(found[0]), x2: x(found[0]), y1: TOP, y2: height - BOTTOM }),
    svg("circle", { class: "dot", cx: x(found[0]), cy: y(found[1]), r: 4.5 }),
  ] : [])) };
}

function stretches(points) {
  const made = [[]];
  for (const point of points) {
    if (point[1] == null) made.push([]);
    else made.at(-1).push(point);
  }
  return made.filter((part) => part.length);
}

/** The modes as bands, with their names where there is room, and the hours below. */
export function bands(spans, { from, to, width, label, name }) {
  const x = (at) => LEFT + ((Math.max(from, at) - from) / (to - from || 1)) * (width - LEFT - RIGHT);
  const rects = spans.filter((span) => span.to > from).map((span) => svg("rect", {
    class: `m-${span.mode}`, x: x(span.from), y: 4, width: Math.max(1, x(span.to) - x(span.from)), height: 16, rx: 2,
  }, svg("title", {}, name(span))));
  const hours = times(from, to, Math.max(2, Math.floor(width / 90))).map((at) => [
    svg("line", { class: "grid", x1: x(at), x2: x(at), y1: 22, y2: 27 }),
    svg("text", { x: x(at), y: 39, "text-anchor": "middle" }, clock(at)),
  ]);
  return svg("svg", { viewBox: `0 0 ${width} 44`, height: 44, role: "img", "aria-label": label }, rects, hours.flat());
}

/** The colour of a mode in the bands. */
export const swatch = (mode) => svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" },
  svg("rect", { class: `m-${mode}`, width: 16, height: 16, rx: 4 }));

/** The moment under the pointer. */
export function momentAt(event, element, { from, to, width }) {
  const box = element.getBoundingClientRect();
  const at = ((event.clientX - box.left) / box.width) * width;
  return from + ((at - LEFT) / (width - LEFT - RIGHT)) * (to - from);
}

/** The known point that is nearest to a moment; null where none is near. */
export function nearest(points, at) {
  let best = null;
  for (const point of points) {
    if (point[1] != null && (!best || Math.abs(point[0] - at) < Math.abs(best[0] - at))) best = point;
  }
  return best;
}
