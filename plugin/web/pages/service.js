// What the service and Orthanc answer, asked for relative to where this file came from, so that
// the pages also work behind a proxy that adds a prefix.

import { counted } from "./elements.js";

const OAR = new URL(".", import.meta.url); // …/oar/
const ORTHANC = new URL("..", import.meta.url);

export const BUSY_MS = 1000; // between two looks while a job is queued or running
export const IDLE_MS = 5000; // and while none is

/** Its message is a sentence for a person; its status that of the answer, if there was one. */
export class Problem extends Error {
  constructor(message, status = null) {
    super(message);
    this.status = status;
  }
}

/** The problem that was caught. Anything else is a mistake of ours, and goes on. */
export function problem(why) {
  if (!(why instanceof Problem)) {
    throw why;
  }
  return why;
}

const LONG_S = 60; // that a job may wait while none is done

/** Whether jobs are done, by the answer to `health`. */
export function inWords(health) {
  const waiting = `${health.jobs.queued || "None"} waiting.`;
  if (health.status === "stopped") {
    return health.hanging
      ? `Stopped: ${counted(health.hanging, "job")} hung and cannot be stopped. Restart Orthanc.`
      : "Stopped: no job is taken. Orthanc's log says why.";
  }
  if (health.paused) {
    const since = health.paused_since ? ` since ${new Date(health.paused_since).toLocaleString()}` : "";
    return `Paused by ${health.paused_by || "a person"}${since}: no further job is taken. ${waiting}`;
  }
  if (health.at_work) {
    return `Working. ${waiting}`;
  }
  return health.waiting_seconds > LONG_S
    ? `Nobody takes jobs: ${waiting} Worker nodes, if there are any, are not at work.`
    : "Ready.";
}

/** Whether who looks may ask for jobs, and whether to pause the queue, by the answer to `health`. */
export const mayAsk = ({ role }) => role !== "look";
export const mayPause = ({ role }) => role === "administer";

/** Whether Orthanc has said that it does not hold it; other problems may pass. */
export const isGone = (why) => why.status === 404;

async function json(url, options) {
  let answer;
  try {
    answer = await fetch(url, { cache: "no-store", ...options });
  } catch {
    throw new Problem("Orthanc does not answer.");
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok) {
    const sentence = content?.error ?? content?.Message ?? `Orthanc answers ${answer.status}.`;
    throw new Problem(sentence, answer.status);
  }
  if (content === null) {
    throw new Problem("What answers is not Orthanc. Perhaps you have to sign in again.");
  }
  return content;
}

export const oar = (path) => json(new URL(path, OAR));
export const order = (path, body = {}) =>
  json(new URL(path, OAR), { method: "POST", body: JSON.stringify(body) });
export const orthanc = (path) => json(new URL(path, ORTHANC));

const known = new Map();

/** As `orthanc`, asked once for each path: what a DICOM object is does not change. */
export function orthancOnce(path) {
  if (!known.has(path)) {
    const answer = orthanc(path);
    answer.catch(() => known.delete(path));
    known.set(path, answer);
  }
  return known.get(path);
}

export const pageOfStudy = (study) => new URL(`app/explorer.html#study?uuid=${study}`, ORTHANC).href;
export const pageOfSeries = (series) =>
  new URL(`app/explorer.html#series?uuid=${series}`, ORTHANC).href;
export const queuePage = new URL("index.html", OAR).href;

/** Where the viewer shows a study, with one of its SEG instances if it is named. */
export function viewerOf(study, seg) {
  const url = new URL("viewer", OAR);
  url.searchParams.set("study", study);
  if (seg) {
    url.searchParams.set("seg", seg);
  }
  return url.href;
}

/**
 * Call `look` again and again, until it returns no pause; not while nobody can see the page.
 *
 * `look` answers the milliseconds until the next call, or null for the last. The function that
 * comes back makes the next call at once, also after the last one.
 */
export function watch(look) {
  let timer = null;
  let running = false;
  let again = false;
  async function now() {
    clearTimeout(timer);
    if (running) {
      again = true;
      return;
    }
    running = true;
    again = false;
    let pause = IDLE_MS;
    try {
      pause = await look();
    } finally {
      running = false;
      if (again) {
        now();
      } else if (pause !== null && !document.hidden) {
        timer = setTimeout(now, pause);
      }
    }
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      now();
    }
  });
  now();
  return now;
}
