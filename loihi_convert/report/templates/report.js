// Everything here is an addition: without it tables scroll.
// Gives each table as much room as it needs: as it is, tight, with broken words, or each row as a block.
const FITS = ["tight", "folded", "stacked"];
const fit = (box) => {
  if (!box.getClientRects().length) return;
  box.classList.remove(...FITS);
  for (const step of FITS) {
    if (box.scrollWidth <= box.clientWidth) return;
    // A matrix is read across: its rows stay rows.
    if (step === "stacked") { if (box.querySelector(".matrix")) return; box.classList.remove("tight", "folded"); }
    box.classList.add(step);
  }
};
const boxes = [...document.querySelectorAll(".scroll")];
const fitAll = () => { if (!matchMedia("print").matches) boxes.forEach(fit); };
for (const box of boxes) {
  const roles = {table: "table", tr: "row", td: "cell", "tbody th": "rowheader", "thead th": "columnheader"};
  // A table that is shown as blocks is still read out as a table.
  for (const [selector, role] of Object.entries(roles))
    for (const element of box.querySelectorAll(selector)) element.setAttribute("role", role);
  for (const cell of box.querySelectorAll("td")) cell.classList.toggle("long", cell.textContent.length > 24);
}
fitAll();
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; fitAll(); } });
addEventListener("beforeprint", () => boxes.forEach((box) => box.classList.remove(...FITS)));
addEventListener("afterprint", fitAll);
document.addEventListener("toggle", (event) => event.target.querySelectorAll(".scroll").forEach(fit), true);

const save = (name, kind, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: kind}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

// A picture as a file: in light colours, on white, with its title.
const written = (figure) => {
  figure.classList.add("light");
  const style = getComputedStyle(figure), picture = figure.querySelector("svg").cloneNode(true);
  picture.querySelectorAll(".off").forEach((mark) => mark.remove());
  picture.prepend(document.createElementNS(picture.namespaceURI, "title"));
  picture.firstChild.textContent = figure.querySelector("strong").textContent;
  picture.style.background = "#ffffff";
  const text = new XMLSerializer().serializeToString(picture);
  const whole = text.replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  figure.classList.remove("light");
  return whole;
};

// Joins the best of the marks that are shown: each is better than all marks to its left.
const drawFront = (figure) => {
  for (const group of figure.querySelectorAll("g[data-front]")) {
    const line = group.querySelector(".line"), sign = group.dataset.front === "highest" ? 1 : -1, best = [];
    line.dataset.whole ??= line.getAttribute("d");
    const uses = [...figure.querySelectorAll(".mark[data-key]:not(.off) use")];
    const points = uses.map((use) => [Number(use.getAttribute("x")), Number(use.getAttribute("y"))]);
    points.sort((one, other) => one[0] - other[0] || sign * (one[1] - other[1]));
    for (const point of points) if (!best.length || sign * point[1] < sign * best.at(-1)[1]) best.push(point);
    const drawn = best.length > 1 ? `M${best.map((point) => point.join(" ")).join("L")}` : "";
    line.setAttribute("d", figure.querySelector(".mark.off") ? drawn : line.dataset.whole);
  }
};

for (const figure of document.querySelectorAll("figure.chart")) {
  const name = figure.querySelector("strong").textContent.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const bar = document.createElement("div");
  bar.className = "save";
  for (const [label, kind, content] of [
    ["SVG", "image/svg+xml", () => written(figure)],
    ["CSV", "text/csv", () => figure.dataset.csv],
  ]) {
    const button = document.createElement("button");
    button.textContent = label;
    button.title = `Save as ${label}`;
    button.setAttribute("aria-label", `Save this chart as ${label}`);
    button.addEventListener("click", () => save(`${name}.${label.toLowerCase()}`, kind, content()));
    bar.append(button);
  }
  figure.classList.add("has-save");
  figure.append(bar);
}

// A choice for each of the first columns of a table; rows that do not fit, and their marks, are hidden.
for (const table of document.querySelectorAll("table[data-filtered]")) {
  const rows = [...table.tBodies[0].rows], bar = document.createElement("div"), selects = new Map();
  bar.className = "filters";
  for (let column = 0; column < Number(table.dataset.filtered); column++) {
    const name = table.tHead.rows[0].cells[column].textContent.replace(/\s+/g, " ");
    const values = [...new Set(rows.map((row) => row.cells[column].textContent))];
    if (values.length < 2) continue;
    const label = document.createElement("label"), select = document.createElement("select");
    select.append(new Option("all", ""), ...values.map((value) => new Option(value || "none", `=${value}`)));
    label.append(name, select);
    bar.append(label);
    selects.set(column, select);
  }
  if (!selects.size) continue;
  const said = document.createElement("output");
  bar.append(said);
  const filter = () => {
    const left = new Set();
    for (const row of rows) {
      row.hidden = [...selects].some(([column, {value}]) => value && value !== `=${row.cells[column].textContent}`);
      if (!row.hidden) left.add(row.dataset.key);
    }
    said.textContent = `${left.size} of ${rows.length}`;
    for (const figure of document.querySelectorAll("figure.chart")) {
      for (const mark of figure.querySelectorAll(".mark[data-key]")) mark.classList.toggle("off", !left.has(mark.dataset.key));
      drawFront(figure);
    }
    fitAll();
  };
  bar.addEventListener("change", filter);
  // In sight of the charts that it changes.
  (document.querySelector(".charts") ?? table.closest(".scroll")).before(bar);
  filter();
}
