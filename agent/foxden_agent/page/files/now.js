// What happens now: modes with their reasons, the task without its prompt, figures, pauses.

import { byId, el, redraw, say, sign } from "./dom.js";
import { post } from "./call.js";
import { number, t } from "./words.js";

const GIB = 1024 ** 3;
let before = "";

/** Show a status; `follow` takes the newer one that a button brings. */
export function show(status, follow) {
  redraw(byId("problems"), status.problems, () => status.problems.map((text) => el("li", {}, text)));
  byId("problems").hidden = !status.problems.length;
  const cards = byId("cards");
  if (cards.childElementCount !== status.cards.length) cards.replaceChildren(...status.cards.map(() => card()));
  status.cards.forEach((told, index) => fill(cards.children[index], told));
  pauses(status, follow);
  facts(status);
  announce(status);
}

function card() {
  return el("article", { class: "panel" },
    el("div", { class: "mode" }, el("span", { class: "sign" }), el("h2"), el("span", { class: "name" })),
    el("ul", { class: "reasons" }),
    el("div", { class: "task" }, el("div", { class: "row" }, el("span"), el("span", { class: "quiet" })),
      el("progress", { max: 1, "aria-label": t("now.progress") })),
    el("dl", { class: "figures" }));
}

function fill(article, told) {
  redraw(article.querySelector(".sign"), told.mode, () => [sign(told.mode)]);
  say(article.querySelector("h2"), t(`mode.${told.mode}`));
  say(article.querySelector(".name"), told.name);
  const texts = told.reasons.length ? told.reasons.map((reason) => reason.text) : [t(`mode_text.${told.mode}`)];
  redraw(article.querySelector(".reasons"), texts, () => texts.map((text) => el("li", {}, text)));
  task(article.querySelector(".task"), told);
  figures(article.querySelector(".figures"), told.readings);
}

function task(place, told) {
  const [row, bar] = place.children;
  const works = told.task;
  bar.hidden = !works;
  if (!works) {
    say(row.children[0], t("now.no_task"));
    say(row.children[1], "");
    return;
  }
  const key = works.images === 1 ? "now.task_one" : "now.task_many";
  say(row.children[0], t(key, { n: works.images, model: works.model }));
  if (works.steps) {
    bar.value = works.step / works.steps;
    say(row.children[1], t("now.step", { step: works.step, steps: works.steps }));
  } else {
    bar.removeAttribute("value");
    say(row.children[1], t("now.loading"));
  }
}

function figures(list, read) {
  const made = [];
  const add = (key, value, unit, of) => {
    if (value != null) made.push([t(key), value, of ? t("unit.of", { n: of }) + " " + unit : unit]);
  };
  const { temperature, memory_used: used, memory_total: total, power, power_limit: limit, utilisation } = read;
  add("figure.temperature", temperature != null ? number(temperature) : null, t("unit.degrees"));
  add("figure.memory", used != null ? number(used / GIB, 1) : null, t("unit.gigabytes"), total != null ? number(total / GIB, 1) : null);
  add("figure.power", power != null ? number(power) : null, t("unit.watts"), limit != null ? number(limit) : null);
  add("figure.use", utilisation != null ? number(utilisation * 100) : null, t("unit.percent"));
  redraw(list, made, () => made.map(([name, value, unit]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value, " ", el("small", {}, unit)))));
}

const WAYS = ["hour", "tomorrow", "restart", "forever", "finish"];

function pauses(status, follow) {
  const held = status.paused_by_hand;
  say(byId("pause-text"), t(held ? "pause.held" : "pause.text"));
  redraw(byId("pauses"), held, () => (held ? ["resume"] : WAYS).map((way) => el("button", {
    type: "button",
    class: way === "resume" ? "first" : "",
    id: `do-${way}`,
    onclick: async (event) => {
      event.target.disabled = true;
      try {
        follow(way === "resume" ? await post("resume") : await post("pause", { how: way }));
        (byId("do-resume") || byId("do-hour"))?.focus();
      } finally {
        event.target.disabled = false;
      }
    },
  }, t(`pause.${way}`))));
}

function facts(status) {
  const told = [
    [t("fact.today"), number(status.today)],
    [t("fact.link"), t(status.online ? "link.online" : "link.away")],
    ...(status.pools.length ? status.pools.map(pool) : [[t("fact.broker"), status.broker]]),
    [t("fact.agent"), status.name],
  ];
  redraw(byId("facts"), told, () => told.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** A pool that was joined; one that does not hear this PC says why. */
function pool({ title, state, reason }) {
  const why = state === "waits" ? t("pool.waits") : reason;
  return [t("fact.broker"), state === "online" || !why ? title : `${title}: ${why}`];
}

function announce(status) {
  const now = status.cards.map((told) => `${told.name}: ${t(`mode.${told.mode}`)}`).join(". ");
  if (now === before) return;
  if (before) say(byId("live"), now);
  before = now;
}
