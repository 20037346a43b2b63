// Small tools to build and change what is on a page. All text goes in as text, never as HTML.

/** An element with attributes, properties given as functions on events, and children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children);
  return element;
}

/** A table of rows under a head for each column; an empty one is no head. */
export function table(attributes, heads, rows) {
  const cells = heads.map((text) => (text ? make("th", { scope: "col" }, text) : make("td")));
  return make(
    "table",
    attributes,
    make("thead", {}, make("tr", {}, ...cells)),
    make("tbody", {}, ...rows),
  );
}

/** A row of a table: what it is about, and the contents of its cells. */
export const tableRow = (head, ...contents) =>
  make(
    "tr",
    {},
    make("th", { scope: "row" }, head),
    ...contents.map((content) => make("td", {}, content)),
  );

/** Set the text of an element only if it is another, so that nothing is announced twice. */
export function setText(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** Replace the children of an element only if what they are made of has changed. */
export function setChildren(element, key, build) {
  if (element.dataset.key !== key) {
    element.dataset.key = key;
    element.replaceChildren(...build());
  }
}

/** A place whose changes a screen reader speaks. */
export function announcer() {
  const element = make("p", { class: "oar-unseen", role: "status" });
  return { element, say: (text) => setText(element, text) };
}

/** "left inner ear" of `inner_ear_left`. */
export function organName(name) {
  const side = /_(left|right)$/.exec(name);
  const plain = (side ? name.slice(0, side.index) : name).replaceAll("_", " ").replace("tmj", "TMJ");
  return side ? `${side[1]} ${plain}` : plain;
}

/** What a person knows a series by, of Orthanc's words for it. */
export function seriesName({ MainDicomTags, Instances }) {
  const { Modality, SeriesDescription, SeriesNumber } = MainDicomTags;
  const number = SeriesNumber ? `series ${SeriesNumber}` : `of ${Instances.length} images`;
  return `${Modality ?? ""} ${SeriesDescription || number}`.trim();
}

/** 76.2 of 0.7615, as documents round; toFixed goes by the binary number, which is a little less. */
export const percent = (fraction) => (Math.round(1000 * fraction) / 10).toFixed(1);

/** "1 organ", "2 organs". */
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** 20260131 as 2026-01-31; anything else as it is. */
export const dicomDate = (date) => (date ?? "").replace(/^(\d{4})(\d{2})(\d{2})$/, "$1-$2-$3");
