// Calls of the agent. The session's second half lies in this origin's storage: a cookie alone is
// sent to every port of this machine, also where somebody else listens.

const HALF = "foxden-half";

/** The agent does not know this browser (any more). */
export class Locked extends Error {}

/** The agent cannot be reached. */
export class Away extends Error {}

/** The agent did not follow; `told` is its answer. */
export class Refused extends Error {
  constructor(told) {
    super(told.problem || "");
    this.told = told;
  }
}

/** Take the half out of the address that the browser was opened with, and the address bar. */
export function begin() {
  const found = /^#half=([\w-]+)$/.exec(location.hash);
  if (!found) return;
  localStorage.setItem(HALF, found[1]);
  history.replaceState(null, "", "/");
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(`/api/${path}`, {
      ...options,
      headers: { ...options.headers, "X-Foxden-Page": localStorage.getItem(HALF) || "" },
      signal: AbortSignal.timeout(15000),
    });
  } catch {
    throw new Away();
  }
  if (answer.status === 403) throw new Locked();
  return answer;
}

async function told(answer) {
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(value);
  return value;
}

export const get = async (path) => told(await call(path));

export const post = async (path, values = {}) => told(await call(path, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(values),
}));

/** A picture as an address for an <img>. */
export async function picture(path) {
  const answer = await call(path);
  if (!answer.ok) throw new Refused({});
  return URL.createObjectURL(await answer.blob());
}
