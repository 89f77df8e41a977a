// Texts by key, and numbers and times as the reader's language writes them.

let texts = {};
export let language = "en";

/** Load the texts, and put those in that the page itself names. */
export async function load() {
  const told = await (await fetch("/texts.json")).json();
  ({ texts, language } = told);
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
}

/** The text of a key, with {names} filled in. */
export function t(key, values = {}) {
  const text = texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);

/** "21:03" of Unix seconds. */
export const clock = (seconds) =>
  new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(seconds * 1000);

export const clockWithSeconds = (seconds) =>
  new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }).format(seconds * 1000);

/** Bytes for people. */
export function size(bytes) {
  if (bytes < 1024 ** 2) return t("unit.kb", { n: number(bytes / 1024) });
  if (bytes < 1024 ** 3) return t("unit.mb", { n: number(bytes / 1024 ** 2) });
  return t("unit.gb", { n: number(bytes / 1024 ** 3, 1) });
}
