// Dice over the cases as a small picture. Positions are attributes: the page allows no inline style.

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/**
 * Points from 0 to 1 in their order, joined by a line.
 *
 * `label` says in words what is to be seen; `marks` are values with a line across and their number in percent.
 */
export function chart(values, { width, height, label, kind, marks = [] }) {
  const left = marks.length ? 44 : 4;
  const x = (place) => left + ((width - left - 4) * (place + 0.5)) / values.length;
  const y = (value) => 4 + (height - 8) * (1 - value);
  const lines = marks.flatMap((mark) => [
    draw("line", { class: "axis", x1: left, x2: width, y1: y(mark), y2: y(mark) }),
    draw("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, `${(100 * mark).toFixed(0)} %`),
  ]);
  const joined = values.map((value, place) => `${x(place).toFixed(1)},${y(value).toFixed(1)}`);
  const points = values.map((value, place) =>
    draw("circle", { class: "point", cx: x(place), cy: y(value), r: marks.length ? 3 : 2 }),
  );
  return draw(
    "svg",
    { class: kind, width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    ...lines,
    draw("polyline", { class: "line", points: joined.join(" ") }),
    ...points,
  );
}
