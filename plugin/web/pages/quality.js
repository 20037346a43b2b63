// The page of the agreement with what people drew: a table for each model, a row for each organ.

import { chart } from "./chart.js";
import { counted, make, organName, percent, setText, table, tableRow } from "./elements.js";
import * as service from "./service.js";

const LONGEST = 60; // CTs in a picture, the newest ones
const MARKS = [0, 0.2, 0.4, 0.6, 0.8, 1];
const LOOK_MS = 30_000; // between two looks

const at = (id) => document.getElementById(id);
const keyOf = (one) => JSON.stringify([one.model, one.model_version, one.kind, one.organ]);
const orDash = (number, digits) => (number === null ? "–" : number.toFixed(digits));

const COLUMNS = [
  "Organ",
  "CTs",
  "Dice %",
  "Dice over time",
  "Surface Dice %",
  "HD95 mm",
  "Path left to draw, mm",
];

function row(trend, open) {
  const dice = trend.points.map((point) => point.dice);
  const name = organName(trend.organ);
  const range = `from ${percent(Math.min(...dice))} to ${percent(Math.max(...dice))} %`;
  const label = `Dice of ${name} on the last ${counted(dice.length, "CT")}, ${range}`;
  const details = make("td", { class: "cases", colspan: COLUMNS.length });
  const detailRow = make("tr", {}, details);
  const attributes = { type: "button", "aria-expanded": "false", "data-key": keyOf(trend) };
  const button = make("button", attributes, name);
  const show = (yes) => {
    button.setAttribute("aria-expanded", String(yes));
    detailRow.hidden = !yes;
    if (yes && !details.hasChildNodes()) {
      const size = { width: 720, height: 180, kind: "chart", marks: MARKS };
      details.append(chart(dice, { ...size, label }), casesTable(trend, name));
    }
  };
  button.addEventListener("click", () => show(detailRow.hidden));
  show(open);
  const cells = [
    String(trend.cases),
    percent(trend.dice_median),
    chart(dice, { width: 150, height: 34, kind: "spark", label }),
    percent(trend.surface_dice_median),
    orDash(trend.hd95_mm_median, 1),
    trend.added_path_length_mm_median.toFixed(0),
  ];
  return [tableRow(button, ...cells), detailRow];
}

function casesTable(trend, name) {
  const heads = ["Compared", "Drawn as", "Dice %", "Surface Dice %", "HD95 mm", "Path mm", "ml", "Drawn ml"];
  const rows = trend.points.toReversed().map((point) => {
    const when = new Date(point.compared).toLocaleString();
    const values = [
      point.drawn_as,
      percent(point.dice),
      percent(point.surface_dice),
      orDash(point.hd95_mm, 1),
      point.added_path_length_mm.toFixed(0),
      point.volume_ml.toFixed(2),
      point.drawn_ml.toFixed(2),
    ];
    return tableRow(make("a", { href: service.pageOfStudy(point.study) }, when), ...values);
  });
  return table({ "aria-label": `CTs with ${name}, the newest first` }, heads, rows);
}

function section(number, trends, opened) {
  const [{ model, model_version: version, kind }] = trends;
  const id = `model-${number}`;
  const shadow = kind === "shadow" ? " (shadow, on trial)" : "";
  const rows = trends.flatMap((trend) => row(trend, opened.has(keyOf(trend))));
  return make(
    "section",
    { "aria-labelledby": id, "data-model": model },
    make("h2", { id }, `${model} ${version}${shadow}`),
    make(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": `Organs of ${model}` },
      table({ class: "trend-table", "aria-labelledby": id }, COLUMNS, rows),
    ),
  );
}

let shown = ""; // what the tables were made of

function showModels(trends) {
  const key = JSON.stringify(trends);
  if (key === shown) {
    return;
  }
  shown = key;
  const buttons = [...document.querySelectorAll("[aria-expanded='true']")];
  const opened = new Set(buttons.map((button) => button.dataset.key));
  const groups = new Map();
  for (const trend of trends) {
    const name = JSON.stringify([trend.model, trend.model_version, trend.kind]);
    groups.set(name, [...(groups.get(name) ?? []), trend]);
  }
  const sections = [...groups.values()].map((group, number) => section(number, group, opened));
  at("trends").replaceChildren(...sections);
}

async function update() {
  try {
    const { trends } = await service.oar(`quality/trend?last=${LONGEST}`);
    showModels(trends);
    setText(at("nothing"), trends.length ? "" : "Nothing was compared yet.");
    setText(at("message"), "");
  } catch (why) {
    setText(at("message"), service.problem(why).message);
  }
  return LOOK_MS;
}

service.watch(update);
