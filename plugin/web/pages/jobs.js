// One job as a person sees it, in Orthanc Explorer and on the page of the queue alike.
//
// Rows do not move under a mouse that is about to press a button: it would press another job's.

import {
  counted,
  make,
  organName,
  percent,
  setChildren,
  setText,
  table,
  tableRow,
} from "./elements.js";
import { isGone, order, orthancOnce, pageOfSeries, problem, viewerOf } from "./service.js";

export const isActive = (job) => job.state === "queued" || job.state === "running";
export const isUnderWay = (job) =>
  job.deliveries.some((one) => one.state === "waiting" || one.state === "sending");
const canRetry = (job) => ["failed", "cancelled", "skipped"].includes(job.state);
const canDeliver = (one) =>
  one.state === "failed" ||
  one.state === "refused" ||
  (one.state === "waiting" && one.attempts > 0); // until its next attempt: a person may hurry it
const AIMING_MS = 10_000; // after its last move a mouse on a button was left there
const KINDS = { seg: "SEG", rtstruct: "RTSTRUCT", sr: "SR", review: "Review pages" };

const ASKED_BY = {
  "stable study": "by itself",
  rest: "asked for",
  start: "found at the start",
};

/** Keeps one list item in step with one job. */
export class JobItem {
  constructor(job, { titleOf, pageOf, viewer, mayAsk, changed }) {
    this.id = job.id;
    this.titleOf = titleOf;
    this.viewer = viewer; // whether there is one
    this.mayAsk = mayAsk; // whether who looks may do more
    this.changed = changed;
    this.unsure = false; // whether it could not be told if a result is there
    this.state = make("span", { class: "oar-state" });
    this.stage = make("span", { class: "oar-stage" });
    this.bar = make("progress", { max: 1, "aria-label": "Progress" });
    this.reason = make("p", { class: "oar-reason" });
    this.warnings = make("ul", { class: "oar-warnings", "aria-label": "Warnings" });
    this.facts = make("p", { class: "oar-facts" });
    this.results = make("span", { class: "oar-results" });
    this.volumes = make("details", { class: "oar-volumes" });
    this.dice = make("p", { class: "oar-facts" });
    this.deliveries = make("ul", { class: "oar-deliveries", "aria-label": "Deliveries" });
    this.title = make(pageOf ? "a" : "span", { class: "oar-title", href: pageOf?.(job) });
    this.message = make("p", { class: "oar-message", role: "alert", hidden: true });
    const failed = (sentence) => {
      this.message.hidden = !sentence;
      setText(this.message, sentence);
    };
    const act = (path) => async () => {
      this.busy(true);
      failed("");
      try {
        await order(`jobs/${job.id}/${path}`);
        changed();
      } catch (why) {
        failed(problem(why).message);
      } finally {
        this.busy(false);
      }
    };
    this.cancel = make("button", { type: "button", onclick: act("cancel") }, "Cancel");
    this.retry = make("button", { type: "button", onclick: act("retry") }, "Try again");
    this.deliver = make("button", { type: "button", onclick: act("deliver") }, "Deliver again");
    this.element = make(
      "li",
      { class: "oar-job", "data-job": job.id },
      make("p", { class: "oar-head" }, this.state, " ", this.title, " ", this.stage),
      this.bar,
      this.facts,
      this.reason,
      this.warnings,
      this.dice,
      this.deliveries,
      make("p", { class: "oar-actions" }, this.results, " ", this.cancel, this.retry, this.deliver),
      this.message,
      this.volumes,
    );
    this.update(job);
  }

  update(job) {
    this.element.dataset.state = job.state;
    const parts = this.titleOf(job);
    // Each in its own direction: a date beside Arabic or Hebrew would be read backwards.
    setChildren(this.title, JSON.stringify(parts), () =>
      parts.flatMap((part, place) => [place > 0 && " · ", make("bdi", {}, part)].filter(Boolean)),
    );
    setText(this.state, job.state);
    const done = `${Math.round(100 * job.progress)} %`;
    setText(this.stage, job.state === "running" ? `${job.stage || "starting"}, ${done}` : "");
    this.bar.hidden = job.state !== "running";
    this.bar.value = job.progress;
    this.bar.setAttribute("aria-valuetext", done);
    setText(this.facts, facts(job));
    setText(this.reason, job.reason);
    this.reason.hidden = !job.reason;
    setChildren(this.warnings, job.warnings.join("\n"), () =>
      job.warnings.map((text) => make("li", {}, text)),
    );
    this.warnings.hidden = job.warnings.length === 0;
    this.cancel.hidden = !this.mayAsk || !isActive(job);
    this.retry.hidden = !this.mayAsk || !canRetry(job);
    this.deliver.hidden = !this.mayAsk || !job.deliveries.some((one) => canDeliver(one));
    setText(this.dice, agreement(job));
    this.dice.hidden = !this.dice.textContent;
    setChildren(this.deliveries, JSON.stringify(job.deliveries), () => job.deliveries.map(delivery));
    this.deliveries.hidden = job.deliveries.length === 0;
    for (const button of [this.cancel, this.retry, this.deliver]) {
      button.setAttribute("aria-label", `${button.textContent}: ${this.title.textContent}`);
    }
    this.showResults(job);
    const organs = Object.entries(job.volumes_ml);
    this.volumes.hidden = organs.length === 0;
    setChildren(this.volumes, JSON.stringify(organs), () => volumes(organs));
  }

  showResults(job) {
    const pages = job.results.filter((result) => result.kind === "review");
    const others = job.results.filter((result) => result.kind !== "review");
    const key = job.results.map((result) => result.orthanc_id).join(" ");
    if (this.unsure) {
      this.unsure = false;
      delete this.results.dataset.key; // so that they are made anew
    }
    setChildren(this.results, key, () => {
      // All review pages are one series.
      const links = [...others, ...pages.slice(0, 1)].flatMap((result) =>
        this.resultLinks(job, result),
      );
      // What is to be done first stands first.
      return links.sort((one, other) => other.matches(".oar-button") - one.matches(".oar-button"));
    });
  }

  /** One result: its series in Orthanc Explorer, and the viewer if it can show it. */
  resultLinks(job, result) {
    const name = KINDS[result.kind] ?? result.kind;
    const link = make("a", { "aria-label": `${name}: ${this.title.textContent}` }, name);
    const links = [link];
    if (result.kind === "seg" && this.viewer) {
      const href = viewerOf(job.study, result.orthanc_id);
      const label = `Open viewer: ${this.title.textContent}`;
      links.push(viewerLink({ href, "aria-label": label }));
    }
    orthancOnce(`instances/${result.orthanc_id}`).then(
      (instance) => link.setAttribute("href", pageOfSeries(instance.ParentSeries)),
      (why) => {
        if (!isGone(why)) {
          this.unsure = true; // the next look asks again
          return;
        }
        setText(link, `${name} (no longer in Orthanc)`);
        links.slice(1).forEach((other) => other.remove());
        this.changed();
      },
    );
    return links;
  }

  busy(yes) {
    this.cancel.disabled = this.retry.disabled = this.deliver.disabled = yes;
  }
}

/**
 * Keeps a list in step with jobs, and says which have changed their state.
 *
 * Options: `titleOf` a job, a list of texts; `pageOf` a job, which may be absent; `viewer`, whether
 * there is one; `mayAsk`, whether there are buttons; `changed`, called for another look; `say`,
 * given a sentence; `first`, which of the jobs are not folded away (if absent: all).
 */
export class JobList {
  constructor(options) {
    this.first = make("ul", { class: "oar-jobs" });
    this.others = make("ul", { class: "oar-jobs" });
    this.summary = make("summary");
    this.fold = make("details", { class: "oar-fold", hidden: true }, this.summary, this.others);
    this.fold.addEventListener("toggle", () => options.changed()); // they are made when seen
    this.element = make("div", {}, this.first, this.fold);
    this.options = options;
    this.items = new Map();
    this.states = new Map();
    this.moved = -Infinity; // when the mouse did last
    this.element.addEventListener("pointermove", (event) => {
      this.moved = event.timeStamp;
    });
    this.element.addEventListener("click", () => {
      this.moved = -Infinity; // it has been pressed
    });
  }

  /** The item on whose button the mouse is. */
  get aimedAt() {
    const button = this.element.querySelector("button:hover");
    const recent = performance.now() - this.moved < AIMING_MS;
    return recent && button ? this.items.get(button.closest("[data-job]").dataset.job) : undefined;
  }

  /** Whether a further look may tell more of the same jobs. */
  get unsure() {
    return [...this.items.values()].some((item) => item.unsure);
  }

  update(jobs) {
    this.tell(jobs);
    const aimedAt = this.aimedAt;
    if (aimedAt) {
      const job = jobs.find((one) => one.id === aimedAt.id);
      if (job) {
        aimedAt.update(job);
      }
      return; // the rest by a later look
    }
    const first = this.options.first?.(jobs) ?? jobs;
    const others = jobs.filter((job) => !first.includes(job));
    setText(this.summary, `Earlier jobs, shadows and comparisons (${others.length})`);
    this.fold.hidden = others.length === 0;
    const opened = this.fold.open ? others : [];
    const ids = new Set([...first, ...opened].map((job) => job.id));
    for (const [id, item] of this.items) {
      if (!ids.has(id)) {
        item.element.remove();
        this.items.delete(id);
      }
    }
    this.fill(this.first, first);
    this.fill(this.others, opened);
  }

  fill(element, jobs) {
    jobs.forEach((job, place) => {
      let item = this.items.get(job.id);
      if (item) {
        item.update(job);
      } else {
        item = new JobItem(job, this.options);
        this.items.set(job.id, item);
      }
      if (element.children[place] !== item.element) {
        element.insertBefore(item.element, element.children[place] ?? null);
      }
    });
  }

  tell(jobs) {
    for (const job of jobs) {
      const before = this.states.get(job.id);
      if (before && before !== job.state) {
        const title = this.options.titleOf(job).join(" · ");
        this.options.say(`${title}: ${job.state}. ${job.reason}`);
      }
      this.states.set(job.id, job.state);
    }
  }
}

export const viewerLink = (attributes) =>
  make("a", { class: "oar-button", target: "_blank", rel: "noopener", ...attributes }, "Open viewer");

const WHAT = {
  segment: (job) => job.model,
  shadow: (job) => `${job.model}, a shadow on trial: not for use`,
  compare: () => "comparison of a drawing with our results",
};

function agreement(job) {
  const organs = Object.entries(job.dice);
  const each = organs.map(([organ, dice]) => `${organName(organ)} ${percent(dice)}`);
  return organs.length ? `Dice % with the first result: ${each.join(", ")}` : "";
}

/** Where something of the job goes, and whether it is there. */
function delivery({ kind, target, result, state, attempts, reason, due }) {
  const what = result ? `${KINDS[result]} to` : "To";
  const next = state === "waiting" && attempts > 0 ? `, next ${new Date(due).toLocaleTimeString()}` : "";
  const tries = (attempts > 1 ? `, ${attempts} attempts` : "") + next;
  return make(
    "li",
    { "data-state": state },
    `${what} ${kind} ${target}: ${state}${tries}. ${reason}`.trim(),
  );
}

/** How the job came to be, and by whom if it is known: `user` is who did something to it last. */
function askedBy({ asked_by: how, user, state }) {
  const words = ASKED_BY[how] ?? how;
  if (!user) {
    return words;
  }
  if (state === "cancelled") {
    return `${words}, cancelled by ${user}`;
  }
  return how === "rest" ? `${words} by ${user}` : `${words}, again by ${user}`;
}

function facts(job) {
  const parts = [WHAT[job.kind](job), askedBy(job)];
  parts.push(new Date(job.created).toLocaleString());
  if (job.started && job.finished) {
    parts.push(`${Math.round((new Date(job.finished) - new Date(job.started)) / 1000)} s`);
  } else if (job.started) {
    parts.push(`begun ${new Date(job.started).toLocaleTimeString()}`);
  }
  if (job.attempts > 1) {
    parts.push(`${job.attempts} attempts`);
  }
  return parts.join(" · ");
}

function volumes(organs) {
  const rows = organs.map(([organ, ml]) => tableRow(organName(organ), ml.toFixed(ml < 10 ? 2 : 1)));
  return [
    make("summary", {}, `Volumes of ${counted(organs.length, "organ")}`),
    table({}, ["Organ", "ml"], rows),
  ];
}
