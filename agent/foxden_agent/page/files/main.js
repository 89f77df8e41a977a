// The page: asks the agent every second, and shows the view that the address names.

import { begin, Away, get, Locked } from "./call.js";
import { byId, say } from "./dom.js";
import * as firstRun from "./first_run.js";
import * as history from "./history.js";
import * as log from "./log.js";
import * as now from "./now.js";
import * as settings from "./settings.js";
import { load, t } from "./words.js";

const VIEWS = ["locked", "first-run", "starting", "now", "history", "settings", "log"];
const OWN = { history: history.show, settings: settings.show, log: log.show };
const SECOND = 1000, SLOW = 5; // the history is drawn anew every five seconds
let status = null, view = "", round = 0;

function wanted() {
  if (!status) return view;
  const named = location.hash.slice(1);
  if (status.phase === "first_run") return "first-run";
  if (status.first_run && named !== "now" && !OWN[named]) return "first-run";
  if (OWN[named] && (status.phase === "running" || named !== "history")) return named;
  return status.phase === "running" ? "now" : "starting";
}

function turn(to) {
  if (to === view) return false;
  view = to;
  for (const id of VIEWS) byId(id).hidden = id !== view;
  byId("nav").hidden = ["locked", "first-run"].includes(view);
  for (const link of byId("nav").children) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${t(`title.${view}`)} – Foxden`;
  return true;
}

function follow(told) {
  status = told;
  const link = byId("link");
  link.hidden = status.phase !== "running";
  link.classList.toggle("good", Boolean(status.online));
  say(link, t(status.online ? "link.online" : "link.away"));
  say(byId("version"), `Foxden ${status.version}`);
  turn(wanted());
  if (view === "now") now.show(status, follow);
  if (view === "first-run") firstRun.show(status, follow);
}

async function look() {
  try {
    follow(await get("status"));
    byId("away").hidden = true;
    if (OWN[view] && (view !== "history" || round++ % SLOW === 0)) await OWN[view]();
  } catch (error) {
    if (error instanceof Locked) turn("locked");
    else if (error instanceof Away) byId("away").hidden = view === "locked";
    else throw error;
  }
}

async function live() {
  for (;;) {
    if (!document.hidden) await look().catch(console.error);
    await new Promise((resolve) => setTimeout(resolve, SECOND));
  }
}

addEventListener("hashchange", async () => {
  round = 0;
  turn(wanted());
  byId("main").focus();
  scrollTo(0, 0);
  await look().catch(console.error);
});
addEventListener("resize", () => { round = 0; });
document.addEventListener("visibilitychange", () => { if (!document.hidden) look().catch(console.error); });

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  byId("main").focus();
});

begin();
await load();
live();
