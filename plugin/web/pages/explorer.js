// The panel on a study's page in Orthanc Explorer: segment, watch, see why not, look at the result.
//
// It lives among Orthanc Explorer's own jQuery Mobile, and uses of it only which page is shown.

import { announcer, make, seriesName, setChildren, setText } from "./elements.js";
import { isActive, isUnderWay, JobList, viewerLink } from "./jobs.js";
import * as service from "./service.js";

const AGAIN = "again, although there is a result";

/**
 * What a person looks for on a study's page, of its jobs, the newest first: those under way and,
 * of each series and model, how it ended last, and the last result.
 */
function current(jobs) {
  const known = new Set();
  const isFirst = (...key) => !known.has(key.join()) && known.add(key.join());
  return jobs.filter((job) => {
    if (isActive(job) || job.kind !== "segment") {
      return isActive(job);
    }
    const last = isFirst(job.series, job.model);
    return (job.results.length > 0 && isFirst(job.series, job.model, "result")) || last;
  });
}

class Panel {
  constructor(study) {
    this.study = study;
    this.titles = new Map(); // of series
    this.hadActive = false; // at the last look
    this.settled = false; // whether nothing could happen by itself at the last look
    this.lost = false; // whether the last look failed
    const { element, say } = announcer();
    this.say = say;
    this.message = make("p", { class: "oar-message", role: "alert" });
    this.model = make("select", { id: "oar-model", "data-role": "none" });
    this.model.addEventListener("change", () => this.describe());
    this.again = make("input", { id: "oar-again", type: "checkbox", "data-role": "none" });
    this.segment = make(
      "button",
      {
        type: "button",
        class: "oar-button",
        "data-role": "none",
        disabled: true, // until the service has answered
        onclick: () => this.ask(),
      },
      "Segment",
    );
    this.asking = make(
      "div",
      { class: "oar-asking" },
      make("label", { for: "oar-model" }, "Model"),
      this.model,
      make("label", { class: "oar-check" }, this.again, ` ${AGAIN}`),
      this.segment,
    );
    this.onlyLook = make(
      "span",
      { class: "oar-facts", hidden: true },
      "Your role allows you to look: not to segment, cancel, try again or deliver.",
    );
    this.viewer = viewerLink({ href: service.viewerOf(study), hidden: true });
    this.note = make("p", { class: "oar-facts", hidden: true }); // on what was asked for last
    this.service = make("p", { class: "oar-facts", hidden: true }); // while a job waits
    this.nothing = make("p", { hidden: true }, "No job yet.");
    this.about = make("p", { class: "oar-facts", hidden: true }); // the chosen model
    this.reasons = make("ul", { class: "oar-explained" });
    this.why = make(
      "details",
      { class: "oar-why" },
      make("summary", {}, "Which series are taken, and why"),
      this.reasons,
    );
    this.why.addEventListener("toggle", () => this.why.open && this.explain());
    this.place = make("div");
    this.element = make(
      "section",
      { id: "oar-panel", "aria-labelledby": "oar-heading" },
      make(
        "header",
        {},
        make("h2", { id: "oar-heading" }, "Organs at risk"),
        make("span", { class: "oar-notice" }, "Research use only"),
        make("a", { href: service.queuePage, target: "_blank", rel: "noopener" }, "Queue, models"),
      ),
      make(
        "div",
        { class: "oar-ask" },
        this.asking,
        this.onlyLook,
        this.viewer,
      ),
      this.about,
      this.message,
      this.note,
      element,
      this.service,
      this.nothing,
      this.place,
      this.why,
    );
  }

  /** Look at the jobs from now on; the panel must be on the page. */
  start() {
    this.look = service.watch(() => this.update());
  }

  /** What is asked once, before the first look at the jobs. */
  async begin(health) {
    const [models, series] = await Promise.all([
      service.oar("models"),
      service.orthanc(`studies/${this.study}/series`),
    ]);
    this.nameSeries(series);
    this.models = new Map(models.models.map(({ name, card }) => [name, card]));
    const usual = make("option", { value: "" }, "as the settings say");
    const others = [...this.models].map(([value, { synthetic }]) =>
      make("option", { value }, synthetic ? `${value} (synthetic, not for patients)` : value),
    );
    this.model.replaceChildren(usual, ...others);
    this.hasViewer = health.viewer;
    const mayAsk = service.mayAsk(health);
    this.asking.hidden = !mayAsk;
    this.onlyLook.hidden = mayAsk;
    this.list = new JobList({
      titleOf: (job) => [this.titleOf(job.series)],
      viewer: health.viewer,
      mayAsk,
      changed: () => this.look(),
      say: this.say,
      first: current,
    });
    this.place.append(this.list.element);
  }

  /** Say of a model that is chosen by name what it is: not each one is for patients. */
  describe() {
    setText(this.about, this.models?.get(this.model.value)?.description ?? "");
    this.about.hidden = !this.about.textContent;
  }

  nameSeries(series) {
    for (const one of series) {
      this.titles.set(one.ID, seriesName(one));
    }
  }

  titleOf(series) {
    return this.titles.get(series) || `Series ${series.slice(0, 8)}`;
  }

  /** One look at the jobs; the next one only if something can still happen by itself. */
  async update() {
    if (!this.element.isConnected) {
      return null;
    }
    try {
      const [health, { jobs }] = await Promise.all([
        service.oar("health"),
        service.oar(`jobs?study=${this.study}`),
      ]);
      if (!this.list) {
        await this.begin(health);
      }
      const active = jobs.some(isActive);
      const open = this.list.unsure || jobs.some(isUnderWay);
      this.list.update(jobs);
      this.nothing.hidden = jobs.length > 0;
      this.service.hidden = !jobs.some((job) => job.state === "queued");
      setText(this.service, this.service.hidden ? "" : service.inWords(health));
      const atJob = this.list.element.querySelector(".oar-results .oar-button");
      this.viewer.hidden = !this.hasViewer || atJob !== null;
      this.segment.disabled = false;
      this.found();
      if (this.hadActive && !active) {
        window.Refresh?.(); // Orthanc Explorer's own: shows the new series
        if (this.why.open) {
          this.explain();
        }
      }
      this.hadActive = active;
      if (active) {
        this.settled = false;
        return service.BUSY_MS;
      }
      const { IsStable } = await service.orthanc(`studies/${this.study}`);
      const wasSettled = this.settled;
      this.settled = IsStable && !open;
      if (this.settled && wasSettled) {
        return null;
      }
      if (this.settled && jobs.length === 0) {
        this.why.open = true;
      }
      return service.IDLE_MS; // once more when all is settled: a job may have come meanwhile
    } catch (why) {
      this.lost = true;
      this.failed(why);
      return service.IDLE_MS;
    }
  }

  /** A look has succeeded: that an earlier one did not is no longer of interest. */
  found() {
    if (this.lost) {
      this.lost = false;
      setText(this.message, "");
    }
  }

  async ask() {
    this.segment.disabled = true;
    setText(this.message, "");
    this.inform("");
    try {
      const { jobs } = await service.order(`studies/${this.study}/jobs`, {
        force: this.again.checked,
        model: this.model.value || null,
      });
      this.again.checked = false;
      if (!jobs.some(isActive)) {
        this.inform(`There is a result already. For another one tick "${AGAIN}".`);
      }
      this.look();
    } catch (why) {
      this.failed(why);
      this.segment.disabled = false;
    }
  }

  inform(sentence) {
    this.note.hidden = !sentence;
    setText(this.note, sentence);
    this.say(sentence);
  }

  async explain() {
    try {
      this.nameSeries(await service.orthanc(`studies/${this.study}/series`));
      const { series } = await service.oar(`studies/${this.study}/explain`);
      setChildren(this.reasons, JSON.stringify(series), () =>
        series.map((one) =>
          make(
            "li",
            { "data-chosen": String(one.chosen) },
            make("strong", {}, `${taken(one)}: `),
            `${this.titleOf(one.series)}. ${one.reason}`,
            one.chosen && !one.by_itself ? ` ${one.by_itself_reason}` : "",
            one.model && ` Model by the settings: ${one.model}. ${one.model_reason}`,
          ),
        ),
      );
    } catch (why) {
      this.failed(why);
    }
  }

  failed(why) {
    setText(this.message, service.problem(why).message);
  }
}

for (const name of ["jobs.css", "explorer.css"]) {
  const href = new URL(name, import.meta.url).href;
  document.head.append(make("link", { rel: "stylesheet", href }));
}

function taken(series) {
  if (!series.chosen) {
    return "Not taken";
  }
  return series.by_itself ? "Taken" : "Taken when somebody asks";
}

let panel = null;

function show() {
  const { active, uuid } = window.$.mobile.pageData ?? {};
  const series = document.getElementById("list-series");
  if (active !== "study" || !uuid || !series) {
    return;
  }
  const another = panel?.study !== uuid;
  if (another) {
    panel?.element.remove();
    panel = new Panel(uuid);
  }
  series.parentElement.prepend(panel.element);
  if (another) {
    panel.start();
  } else {
    panel.look(); // what may have come while another page was shown
  }
}

window.$("#study").live("pageshow", show);
show(); // the page may have been shown before this script came
