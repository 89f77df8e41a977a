// The owner's settings: every field with its own error beside it, saved all together.

import { byId, el, say } from "./dom.js";
import { get, post, Refused } from "./call.js";
import { number, t } from "./words.js";

let form = null; // as the agent told it last

/** Fetch and draw what is another than before, unless there is something unsaved. */
export async function show() {
  const told = await get("settings");
  if (form && (changed().length || JSON.stringify(told) === JSON.stringify(form))) return;
  draw(told);
}

function draw(told) {
  form = told;
  const groups = told.groups.map((group) => el("fieldset", {},
    el("legend", {}, t(`group.${group.name}`)),
    el("p", { class: "group-text" }, t(`group_text.${group.name}`)),
    group.keys.map((key) => field(key, told.fields[key]))));
  const bar = el("div", { class: "savebar", id: "savebar", hidden: true },
    el("span", { role: "status", id: "saved" }),
    el("button", { type: "button", id: "discard", onclick: () => draw(form) }, t("settings.discard")),
    el("button", { type: "submit", id: "save", class: "first" }, t("settings.save")));
  const place = byId("form");
  place.replaceChildren(...groups, bar);
  place.onsubmit = save;
  place.oninput = place.onchange = () => mark();
  complain(told.errors);
}

const idOf = (key) => `f-${key.replace(".", "-")}`;

function field(key, told) {
  const id = idOf(key);
  const shared = { id, name: key, "aria-describedby": `${id}-help ${id}-problem` };
  let control;
  if (told.kind === "flag") control = el("input", { type: "checkbox", role: "switch", checked: told.value, ...shared });
  else if (told.kind === "list") control = el("textarea", { rows: 3, spellcheck: "false", ...shared });
  else if (told.kind === "number") control = el("input", { type: "number", step: "any", value: told.value, ...shared });
  else control = el("input", { type: "text", value: told.value, ...shared });
  if (told.kind === "list") control.value = told.value.join("\n");
  const unit = told.kind === "number" ? el("span", { class: "unit" }, unitOf(key, told.value)) : null;
  if (unit) control.addEventListener("input", () => say(unit, unitOf(key, control.valueAsNumber)));
  return el("div", { class: "field" },
    el("label", { for: id }, t(`field.${key}`)),
    el("p", { class: "help", id: `${id}-help` }, `${t(`help.${key}`)} ${told.kind === "flag" ? "" : t("settings.default", { value: shown(told) })}`),
    el("div", { class: "control" }, control, unit),
    el("p", { class: "problem", id: `${id}-problem`, hidden: true }));
}

function shown(told) {
  return told.kind === "list" ? told.default.join(", ") || t("settings.none") : String(told.default);
}

const SHARES = ["foreign_use.stop", "foreign_use.resume", "memory_taken", "memory_room.stop", "memory_room.resume", "share_least"];
const DEGREES = ["temperature.stop", "temperature.resume", "temperature_slow"];

function unitOf(key, value) {
  if (SHARES.includes(key)) return Number.isFinite(value) ? t("unit.is_percent", { n: number(value * 100) }) : "";
  if (DEGREES.includes(key)) return t("unit.degrees");
  return t(key === "start_delay" ? "unit.minutes" : "unit.seconds");
}

function valueOf(key) {
  const control = byId(idOf(key));
  const { kind } = form.fields[key];
  if (kind === "flag") return control.checked;
  if (kind === "list") return control.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (kind === "number") return Number.isFinite(control.valueAsNumber) ? control.valueAsNumber : control.value;
  return control.value.trim();
}

function changed() {
  return Object.keys(form.fields).filter((key) => JSON.stringify(valueOf(key)) !== JSON.stringify(form.fields[key].value));
}

function mark(text = "") {
  const some = changed().length > 0;
  byId("savebar").hidden = !some && !text;
  byId("save").hidden = byId("discard").hidden = !some;
  say(byId("saved"), text || (some ? t("settings.unsaved") : ""));
}

async function save(event) {
  event.preventDefault();
  const values = Object.fromEntries(Object.keys(form.fields).map((key) => [key, valueOf(key)]));
  try {
    draw(await post("settings", { values }));
    mark(t("settings.saved"));
    byId("settings-title").closest("section").focus();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const errors = error.told.errors || {};
    complain(errors);
    mark(error.message || t("settings.refused", { n: Object.keys(errors).length }));
    document.querySelector("#form [aria-invalid=true]")?.focus();
  }
}

/** A complaint with the fields' names in place of their keys. Keys that are plain words ("hold")
    are only replaced at its beginning, where nothing else can stand. */
function readable(text) {
  const named = (key) => t("settings.named", { name: t(`field.${key}`) });
  const keys = Object.keys(form.fields).sort((one, other) => other.length - one.length);
  const first = keys.find((key) => text.startsWith(`${key} is `));
  const rest = first ? text.slice(first.length) : text;
  const odd = keys.filter((key) => /[._]/.test(key)).map((key) => key.replace(".", "\\."));
  return (first ? named(first) : "") + rest.replace(new RegExp(`\\b(${odd.join("|")})\\b`, "g"), named);
}

function complain(errors) {
  for (const key of Object.keys(form.fields)) {
    const control = byId(idOf(key)), place = byId(`${idOf(key)}-problem`);
    const problem = readable(errors[key] || errors[key.split(".")[0]] || "");
    control.setAttribute("aria-invalid", problem ? "true" : "false");
    say(place, problem);
    place.hidden = !problem;
  }
}
