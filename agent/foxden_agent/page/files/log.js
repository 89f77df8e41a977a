// The end of the agent's log. New lines are added; who reads further up is not moved.

import { byId, el } from "./dom.js";
import { get } from "./call.js";
import { clockWithSeconds } from "./words.js";

const MOST = 400;
let last = 0;

/** Fetch what is new, and show it. */
export async function show() {
  const { lines } = await get(`log?after=${last}`);
  if (!lines.length) return;
  last = lines.at(-1).number;
  const list = byId("lines"), box = list.parentElement;
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  list.append(...lines.map((line) => el("li", { class: line.level },
    el("time", {}, clockWithSeconds(line.at)), el("i", {}, line.level), el("span", {}, line.text))));
  while (list.childElementCount > MOST) list.firstElementChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
}
