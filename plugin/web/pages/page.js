// The page of the queue, the models and the service.

import {
  announcer,
  counted,
  dicomDate,
  make,
  organName,
  percent,
  seriesName,
  setChildren,
  setText,
  table,
  tableRow,
} from "./elements.js";
import { isActive, JobList } from "./jobs.js";
import * as service from "./service.js";

const LIMIT = 100; // jobs shown
const STATES = ["queued", "running", "done", "skipped", "failed", "cancelled"];

const at = (id) => document.getElementById(id);
const spoken = announcer();
document.body.append(spoken.element);

let wanted = ""; // state to show; or all

function failed(why) {
  setText(at("message"), service.problem(why).message);
}

// --- the service ---------------------------------------------------------------------------------

function whenSegmented({ automatic, automatic_rules: rules }) {
  if (!automatic) {
    return "wait until asked for";
  }
  return `are segmented by themselves${rules ? " if a rule of AutomaticFor fits" : ""}`;
}

function showHealth(health) {
  setText(at("health"), service.inWords(health));
  const facts = {
    "Usual model": `${health.model} ${health.model_version}`,
    Device: health.device,
    "Stable studies": whenSegmented(health),
    Version: health.version,
  };
  setChildren(at("facts"), JSON.stringify(facts), () =>
    Object.entries(facts).map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value)),
    ),
  );
  setText(at("pause"), health.paused ? "Resume" : "Pause");
  at("pause").dataset.order = health.paused ? "queue/resume" : "queue/pause";
  at("pause").hidden = !service.mayPause(health);
  setText(
    at("role"),
    service.mayPause(health)
      ? ""
      : service.mayAsk(health)
        ? "Your role does not allow you to pause the queue."
        : "Your role allows you to look: not to cancel, try again, deliver or pause.",
  );
}

at("pause").addEventListener("click", async () => {
  setText(at("message"), "");
  try {
    await service.order(at("pause").dataset.order);
  } catch (why) {
    failed(why);
  }
  look();
});

// --- the queue -----------------------------------------------------------------------------------

function showFilter(counts) {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  for (const [state, count] of [["", all], ...STATES.map((one) => [one, counts[one]])]) {
    const id = `state-${state || "all"}`;
    if (!at(id)) {
      const input = make("input", { type: "radio", name: "state", id, value: state });
      input.checked = state === wanted;
      input.addEventListener("change", () => {
        wanted = state;
        look();
      });
      at("filter").append(make("span", {}, input, " ", make("label", { for: id })));
    }
    setText(document.querySelector(`label[for="${id}"]`), `${state || "all"} (${count})`);
  }
}

const shortName = (study) => `Study ${study.slice(0, 8)}`;

/** What a person knows a study by, once Orthanc has said it. */
const studies = new Map();

async function learnStudies(jobs) {
  const news = new Set(jobs.map((job) => job.study).filter((study) => !studies.has(study)));
  await Promise.all(
    [...news].map(async (study) => {
      try {
        const { MainDicomTags, PatientMainDicomTags } = await service.orthanc(`studies/${study}`);
        const parts = [
          PatientMainDicomTags.PatientID,
          MainDicomTags.StudyDescription,
          dicomDate(MainDicomTags.StudyDate),
        ];
        const known = parts.filter(Boolean);
        studies.set(study, known.length ? known : [shortName(study)]);
      } catch (why) {
        if (service.isGone(service.problem(why))) {
          studies.set(study, [`${shortName(study)} (no longer in Orthanc)`]);
        }
      }
    }),
  );
}

/** What tells the series of a study apart, if there are jobs of several. */
const series = new Map();

async function learnSeries(jobs) {
  const one = new Map(jobs.map((job) => [job.study, job.series]));
  const other = jobs.filter((job) => job.series !== one.get(job.study));
  const several = new Set(other.map((job) => job.study));
  const news = jobs.filter((job) => several.has(job.study) && !series.has(job.series));
  await Promise.all(
    [...new Set(news.map((job) => job.study))].map(async (study) => {
      let there = [];
      try {
        there = await service.orthanc(`studies/${study}/series`);
      } catch (why) {
        if (!service.isGone(service.problem(why))) {
          return; // the next look asks again
        }
      }
      for (const job of news.filter((each) => each.study === study)) {
        series.set(job.series, `Series ${job.series.slice(0, 8)}`); // if it is no longer there
      }
      there.forEach((each) => series.set(each.ID, seriesName(each)));
    }),
  );
}

function titleOf(job) {
  const study = studies.get(job.study) ?? [shortName(job.study)];
  return series.has(job.series) ? [...study, series.get(job.series)] : study;
}

let list = null;

function showJobs(jobs, health) {
  list ??= new JobList({
    titleOf,
    pageOf: (job) => service.pageOfStudy(job.study),
    viewer: health.viewer,
    mayAsk: service.mayAsk(health),
    changed: () => look(),
    say: spoken.say,
  });
  if (!list.element.isConnected) {
    at("jobs").append(list.element);
  }
  list.update(jobs);
  at("nothing").hidden = jobs.length > 0;
  at("newest").hidden = jobs.length < LIMIT;
  setText(at("newest"), `The newest ${LIMIT} are shown.`);
}

// --- the models ----------------------------------------------------------------------------------

function showModels(models) {
  const cards = models.map(({ name, default: usual, card, written }) => {
    const organs = card.organs.map((organ) => [organ, card.measured[organ]]);
    const dice = organs.map(([, measured]) => measured?.dice_mean).filter((one) => one != null);
    const mean = dice.reduce((sum, one) => sum + one, 0) / dice.length;
    const summary = [counted(organs.length, "organ")];
    if (dice.length > 0) {
      summary.push(`mean Dice ${percent(mean)} %`);
    }
    const details = make(
      "details",
      { "data-model": name },
      make(
        "summary",
        {},
        make("h3", {}, name),
        ` ${usual ? "(usual)" : ""} ${summary.join(", ")}. ${card.description}`,
      ),
      make("p", {}, `Trained on ${card.training.data ?? "data that its card does not name"}.`),
      make("p", {}, `Version ${card.version}. ${card.notice}`),
      diceTable(name, organs, written),
    );
    details.open = usual;
    return details;
  });
  at("models").replaceChildren(...cards);
}

function diceTable(name, organs, written) {
  const rows = organs.map(([organ, measured]) => {
    if (!written.includes(organ)) {
      const row = tableRow(organName(organ), `${measured ? "never found" : "not measured"}: not written`);
      row.lastChild.colSpan = 3;
      return row;
    }
    const text = `${percent(measured.dice_mean)} ± ${percent(measured.dice_sd)}`;
    const meter = make("meter", { max: 1, value: measured.dice_mean, "aria-hidden": "true" });
    return tableRow(organName(organ), text, meter, String(measured.patients));
  });
  const label = `Measured Dice of ${name}`;
  return make(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": label },
    table({ "aria-label": label }, ["Organ", "Dice %", "", "Cases"], rows),
  );
}

// --- all of it -----------------------------------------------------------------------------------

let modelsShown = false;
let lost = false; // whether the last look failed

async function update() {
  try {
    const query = wanted ? `&state=${wanted}` : "";
    const [health, { jobs }] = await Promise.all([
      service.oar("health"),
      service.oar(`jobs?limit=${LIMIT}${query}`),
    ]);
    await learnStudies(jobs);
    await learnSeries(jobs);
    showHealth(health);
    showFilter(health.jobs);
    showJobs(jobs, health);
    if (!modelsShown) {
      showModels((await service.oar("models")).models);
      modelsShown = true;
    }
    if (lost) {
      lost = false;
      setText(at("message"), "");
    }
    return jobs.some(isActive) ? service.BUSY_MS : service.IDLE_MS;
  } catch (why) {
    lost = true;
    failed(why);
    return service.IDLE_MS;
  }
}

const look = service.watch(update);
