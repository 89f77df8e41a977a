// The last hours: three curves, the modes below them, the story in words, and all of it as a table.

import { byId, el, redraw, say, sign } from "./dom.js";
import { get } from "./call.js";
import { bands, curve, momentAt, nearest, swatch } from "./plot.js";
import { clock, number, t } from "./words.js";

const GIB = 1024 ** 3;
const FIGURES = [
  { name: "temperature", unit: "unit.degrees", digits: 0, of: (value) => value },
  { name: "memory_used", unit: "unit.gigabytes", digits: 1, of: (value) => value / GIB },
  { name: "power", unit: "unit.watts", digits: 0, of: (value) => value },
];
const ROWS = 300; // seconds between two rows of the table
const STORY = 40; // changes that are told
let device = "";
let drawn = null; // what lies under the pointer or the arrow keys

/** Fetch and show. */
export async function show() {
  const told = await get(`history?device=${encodeURIComponent(device)}`);
  choice(told);
  plots(told);
  story(told);
  table(told);
}

function choice(told) {
  byId("device-choice").hidden = told.cards.length < 2;
  redraw(byId("device"), told.cards, () => told.cards.map((card) => el("option", { value: card.device }, card.name)));
  byId("device").value = told.device;
  byId("device").onchange = (event) => {
    device = event.target.value;
    show();
  };
}

function points(told, figure) {
  return told.series[figure.name].map(([at, value]) => [at, value == null ? null : figure.of(value)]);
}

function range(values, figure, told) {
  const known = values.map((point) => point[1]).filter((value) => value != null);
  const high = Math.max(...known, 1);
  if (figure.name === "memory_used" && told.memory_total) return [0, told.memory_total / GIB];
  return figure.name === "temperature" ? [Math.min(20, ...known), Math.max(90, high)] : [0, high * 1.1];
}

function plots(told) {
  const place = byId("plots");
  const width = Math.max(260, place.clientWidth - 36);
  const series = FIGURES.map((figure) => points(told, figure));
  const all = series.flat().map((point) => point[0]);
  const to = told.now, from = Math.min(...all, told.spans[0]?.from ?? to, to - 300);
  const frame = { from, to, width };
  const shown = FIGURES.map((figure, index) => ({ figure, values: series[index] }))
    .filter(({ values }) => values.some((point) => point[1] != null));
  const made = shown.map(({ figure, values }) => {
    const known = values.filter((point) => point[1] != null);
    const title = t(`figure.${figure.name}`);
    const last = `${number(known.at(-1)[1], figure.digits)} ${t(figure.unit)}`;
    const highest = `${number(Math.max(...known.map((point) => point[1])), figure.digits)} ${t(figure.unit)}`;
    const label = t("history.curve", { figure: title, last, highest });
    const plot = curve(values, { ...frame, height: 118, range: range(values, figure, told), label });
    return { ...plot, figure, values, head: el("h2", {}, title, el("span", {}, last)) };
  });
  const name = (span) => `${clock(span.from)}–${clock(span.to)} ${t(`mode.${span.mode}`)}`;
  const strip = bands(told.spans, { ...frame, label: t("history.bands"), name });
  const readout = el("p", { class: "readout", role: "status" });
  const modes = [...new Set(told.spans.map((span) => span.mode))];
  const legend = el("ul", { class: "legend" }, modes.map((mode) => el("li", {}, swatch(mode), t(`mode.${mode}`))));
  const empty = made.length ? [] : [el("p", { class: "quiet" }, t("history.empty"))];
  const focus = document.activeElement === place.querySelector("[tabindex]");
  const area = el("div", { tabindex: 0, role: "group", "aria-label": t("history.keys") },
    made.flatMap((plot) => [plot.head, plot.element]), el("h2", {}, t("history.bands")), strip);
  place.replaceChildren(...empty, area, legend, readout);
  drawn = { told, made, readout, frame, at: drawn?.at ?? null };
  area.addEventListener("pointermove", (event) => point(momentAt(event, strip, frame)));
  area.addEventListener("pointerleave", () => point(null));
  area.addEventListener("keydown", keys);
  if (focus) area.focus();
  if (drawn.at != null) point(drawn.at);
}

function keys(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const { from, to } = drawn.frame;
  const at = (drawn.at ?? to) + step * Math.max(5, (to - from) / 60);
  point(Math.min(to, Math.max(from, at)));
}

function point(at) {
  drawn.at = at;
  if (at == null) {
    drawn.made.forEach((plot) => plot.point(null));
    say(drawn.readout, "");
    return;
  }
  const said = drawn.made.map((plot) => {
    const found = nearest(plot.values, at);
    plot.point(found);
    return found && `${number(found[1], plot.figure.digits)} ${t(plot.figure.unit)}`;
  });
  const span = drawn.told.spans.find((one) => one.from <= at && at <= one.to);
  const mode = span && [t(`mode.${span.mode}`), ...span.reasons].join(" – ");
  say(drawn.readout, [clock(at), ...said, mode].filter(Boolean).join("  ·  "));
}

function story(told) {
  const spans = told.spans.slice(-STORY).reverse();
  redraw(byId("story"), spans, () => spans.map((span, index) => el("li", {},
    el("time", {}, index === 0 ? t("history.since", { from: clock(span.from) }) : `${clock(span.from)}–${clock(span.to)}`),
    el("b", {}, sign(span.mode), t(`mode.${span.mode}`)),
    el("p", {}, span.reasons.join("; ") || t(`mode_text.${span.mode}`)))));
}

function table(told) {
  const head = el("thead", {}, el("tr", {},
    el("th", { scope: "col" }, t("history.time")),
    FIGURES.map((figure) => el("th", { scope: "col" }, `${t(`figure.${figure.name}`)} (${t(figure.unit)})`)),
    el("th", { scope: "col" }, t("history.mode"))));
  const series = FIGURES.map((figure) => points(told, figure));
  const rows = [];
  const first = series[0][0]?.[0] ?? told.now;
  for (let at = told.now; at >= first; at -= ROWS) {
    const span = told.spans.find((one) => one.from <= at && at <= one.to);
    rows.push(el("tr", {}, el("th", { scope: "row" }, clock(at)),
      series.map((values, index) => {
        const found = nearest(values, at);
        return el("td", {}, found && Math.abs(found[0] - at) < ROWS ? number(found[1], FIGURES[index].digits) : "–");
      }),
      el("td", {}, span ? t(`mode.${span.mode}`) : "–")));
  }
  byId("table").replaceChildren(el("caption", { class: "unseen" }, t("history.table")), head, el("tbody", {}, rows));
}
