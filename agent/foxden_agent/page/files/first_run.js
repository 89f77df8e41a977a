// The first run: six steps, each with what there is to see and to press.

import { byId, el, redraw, say } from "./dom.js";
import { picture, post, Refused } from "./call.js";
import { number, size, t } from "./words.js";

let link = "", name = "", image = "", model = "", follow = () => {};
let led = false; // a button was pressed here: then the focus follows the steps

/** Show the steps; `then` takes the newer status that a button brings. */
export function show(status, then) {
  follow = then;
  const list = byId("steps");
  if (!list.childElementCount) list.append(...status.first_run.map((step) => item(step.step)));
  status.first_run.forEach((step, index) => fill(list.children[index], step, status));
  const now = status.first_run.find((step) => ["busy", "ready", "failed"].includes(step.state));
  if (led && document.activeElement === document.body) {
    document.querySelector("#steps .current :is(input, button), #steps .failed :is(input, button)")?.focus();
  }
  if (now) say(byId("live"), `${t(`step.${now.step}`)}: ${t(`state.${now.state}`)}. ${now.problem}`);
}

function item(step) {
  return el("li", { id: `step-${step}` },
    el("h2", {}, t(`step.${step}`), " ", el("span", { class: "state" })),
    el("div", { class: "body" }));
}

function fill(place, step, status) {
  const current = ["busy", "ready", "failed"].includes(step.state);
  const over = ["done", "skipped"].includes(step.state);
  place.className = over ? "done" : step.state === "failed" ? "failed" : current ? "current" : "";
  if (current) place.setAttribute("aria-current", "step");
  else place.removeAttribute("aria-current");
  say(place.querySelector(".state"), step.state === "ready" || step.state === "waiting" ? "" : t(`state.${step.state}`));
  const key = [step, step.step === "picture" && image !== "", step.step === "online" ? status.pools : ""];
  const busy = place.querySelector("progress");
  if (busy && step.state === "busy" && place.dataset.state === step.state) return progress(busy, step);
  place.dataset.state = step.state;
  redraw(place.querySelector(".body"), key, () => [...BODIES[step.step](step, status), problem(step)]);
}

function problem(step) {
  return step.problem ? el("p", { class: "problem", role: "alert" }, step.problem) : null;
}

function button(text, action, { values = () => ({}), first = true } = {}) {
  return el("button", {
    type: "button",
    class: first ? "first" : "",
    onclick: async (event) => {
      event.target.disabled = led = true;
      try {
        follow(await post(`first-run/${action}`, values()));
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        say(byId("live"), error.message);
      } finally {
        event.target.disabled = false;
      }
    },
  }, text);
}

/** A model that can be chosen, and what there is to know of it before. */
function offer(one) {
  const id = `model-${one.id.replaceAll("/", "-")}`;
  const entry = el("input", { type: "radio", name: "model", id, disabled: Boolean(one.problem), checked: one.id === model,
    "aria-describedby": `${id}-about`, onchange: () => { model = one.id; } });
  const memory = t("unit.gb", { n: number(one.memory / 1024 ** 3) });
  const fits = one.fits ? t("model.fits") : t("model.needs", { memory });
  return el("div", { class: "model" }, entry,
    el("div", {},
      el("label", { for: id }, one.title),
      el("p", { id: `${id}-about` }, one.good_for, el("br"), t("model.licence", { licence: one.licence }), el("br"),
        one.problem || `${t("model.size", { size: size(one.size) })} · ${fits}`)));
}

/** A bar that moves, and what it says. */
function running(step, text) {
  const bar = el("progress", { max: 1, "aria-label": t(`step.${step.step}`) });
  progress(bar, step);
  return [el("p", { class: "quiet said" }, text), bar];
}

function progress(bar, step) {
  const { steps, step: at, progress: fetched } = step.told;
  const [done, of] = fetched ? [fetched.done, fetched.total] : [at, steps];
  if (of) bar.value = done / of;
  else bar.removeAttribute("value");
  const said = bar.parentElement?.querySelector(".said");
  if (said && fetched) say(said, of ? `${fetched.doing}: ${size(done)} / ${size(of)}` : fetched.doing);
  if (said && steps) say(said, t("now.step", { step: number(at), steps: number(steps) }));
}

const BODIES = {
  join(step) {
    if (["done", "skipped"].includes(step.state)) return [];
    if (step.state === "busy") return running(step, t(step.told.terms?.approval ? "join.approval" : "join.busy"));
    const { terms } = step.told;
    const entry = el("input", { id: "join-link", type: "text", autocomplete: "off", spellcheck: "false", oninput: (event) => { link = event.target.value; } });
    entry.value = link;
    const asked = [
      el("p", { class: "quiet" }, t("join.text")),
      el("div", {}, el("label", { for: "join-link" }, t("join.link")), entry),
    ];
    if (!terms) return [...asked, button(t("join.look"), "look", { values: () => ({ link }) })];
    const called = el("input", { id: "join-name", type: "text", maxlength: 60, oninput: (event) => { name = event.target.value; } });
    called.value = name;
    const rows = [["join.account", terms.account], ["join.broker", terms.broker]].filter(([, value]) => value);
    return [
      el("dl", { class: "terms" }, rows.flatMap(([key, value]) => [el("dt", {}, t(key)), el("dd", {}, value)])),
      el("ul", { class: "findings" }, ["join.may_draw", "join.may_not_see", "join.yours_first"].map((key) => el("li", {}, t(key))),
        (terms.details || []).map((text) => el("li", {}, text))),
      el("div", {}, el("label", { for: "join-name" }, t("join.name")), called),
      el("div", { class: "buttons" },
        button(t("join.join"), "join", { values: () => ({ link, name }) }),
        button(t("join.other"), "look", { values: () => ({ link: "" }), first: false })),
    ];
  },
  check(step) {
    const found = (step.told.findings || []).map((one) => el("li", { class: one.level === "problem" ? "problem-level" : one.level },
      one.found, one.advice ? el("p", {}, one.advice) : null));
    const list = found.length ? [el("ul", { class: "findings" }, found)] : [];
    if (step.state === "busy") return running(step, t("check.busy"));
    if (step.state === "done" && list.length) return [el("details", {}, el("summary", {}, t("check.found", { n: found.length })), list)];
    if (step.state !== "failed") return list;
    return [...list, el("div", { class: "buttons" },
      button(t("check.again"), "check"), button(t("check.anyway"), "go-on-anyway", { first: false }))];
  },
  engine(step) {
    if (step.state === "skipped") return [el("p", { class: "quiet" }, t("engine.here"))];
    if (step.state === "busy") return running(step, t("engine.busy"));
    const parts = step.told.parts || [];
    if (step.state === "failed") return [button(t("again"), "install")];
    if (step.state !== "ready") return [];
    const sum = parts.reduce((total, part) => total + part.size, 0);
    return [
      el("table", { class: "parts" }, el("tbody", {},
        parts.map((part) => el("tr", {}, el("td", {}, part.name, part.note ? el("p", { class: "quiet" }, part.note) : null), el("td", {}, size(part.size)))),
        el("tr", {}, el("th", { scope: "row" }, t("engine.sum")), el("th", {}, size(sum))))),
      button(t("engine.install", { size: size(sum) }), "install"),
    ];
  },
  model(step) {
    const { offers, fetched, here } = step.told;
    if (here) return [el("p", { class: "quiet" }, t("model.here"))];
    if (fetched) return [el("p", { class: "quiet" }, t("model.fetched", { title: fetched }))];
    if (step.state === "busy") return running(step, t(offers ? "engine.busy" : "model.looking"));
    if (!["ready", "failed"].includes(step.state)) return [];
    const none = button(t("model.none"), "no-model", { first: false });
    if (!offers) return [el("div", { class: "buttons" }, button(t("again"), "fetch"), none)];
    const good = offers.filter((one) => !one.problem);
    if (!good.some((one) => one.id === model)) model = good[0].id;
    return [
      el("p", { class: "quiet" }, t("model.text")),
      el("fieldset", { class: "models" }, el("legend", {}, t("model.choose")), offers.map(offer)),
      el("div", { class: "buttons" },
        button(t(step.state === "failed" ? "again" : "model.fetch"), "fetch", { values: () => ({ model }) }), none),
    ];
  },
  picture(step) {
    if (step.state === "busy") return running(step, t("picture.busy"));
    if (step.state === "failed") return [button(t("again"), "draw")];
    if (step.state !== "done") return [];
    const shown = el("img", { class: "picture", alt: t("picture.alt") });
    if (image) shown.src = image;
    else picture("first-run/picture.png").then((address) => { image = address; shown.src = address; });
    return [shown, el("p", { class: "quiet" }, t("picture.kept"))];
  },
  online(step, status) {
    if (step.state === "ready") return [el("p", { class: "quiet" }, t("online.text")), button(t("online.go"), "online")];
    const waits = status.pools?.some((pool) => pool.state === "waits");
    if (step.state === "busy") return running(step, t(waits ? "join.approval" : "online.busy"));
    if (step.state === "done") return [el("p", {}, t("online.done")), el("a", { class: "button", id: "to-now", href: "#now" }, t("online.to_now"))];
    return [];
  },
};
