// Everything here is an addition: without it tables scroll, and marks say their words as titles.
const SVG = document.querySelector("svg")?.namespaceURI;

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

// A picture as a file: light colours, written out, and the title and the legend above it.
const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "opacity", "font-size"];
const written = (figure, words) => {
  figure.classList.add("light");
  const shown = [...figure.querySelectorAll(".pictures > div > svg")].find((svg) => svg.getClientRects().length);
  const picture = shown.cloneNode(true), originals = [...shown.querySelectorAll("*")];
  const copies = [...picture.querySelectorAll("*")], gone = [];
  const keep = (original, copy) => {
    const style = getComputedStyle(original);
    for (const name of KEPT) copy.setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "tabindex", "role", "aria-label", "data-series"]) copy.removeAttribute(name);
  };
  originals.forEach((original, index) => {
    if (original.closest(".off")) gone.push(copies[index]);
    else if (["path", "text", "tspan"].includes(original.localName)) keep(original, copies[index]);
    else if (original.localName === "g") copies[index].removeAttribute("class");
    if (words.has(original)) {
      const title = document.createElementNS(SVG, "title");
      title.textContent = words.get(original);
      copies[index].append(title);
    }
  });
  gone.forEach((element) => element.remove());
  const measure = document.createElement("canvas").getContext("2d"), {width: wide, height: high} = shown.viewBox.baseVal;
  measure.font = "12px sans-serif";
  const head = [], add = (name, attributes, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    head.push(element);
    return element;
  };
  const colour = getComputedStyle(figure).color;
  add("text", {x: 4, y: 18, "font-size": "14px", "font-weight": 600, fill: colour}, figure.querySelector("strong").textContent);
  let x = 4, y = 30;
  for (const item of figure.querySelectorAll(".legend li")) {
    if (item.querySelector("[aria-pressed=false]")) continue;
    const label = item.textContent.trim(), space = 34 + measure.measureText(label).width + 18;
    if (x > 4 && x + space > wide) { x = 4; y += 18; }
    const swatch = add("g", {transform: `translate(${x} ${y})`});
    for (const original of item.querySelectorAll("path")) {
      const copy = original.cloneNode(true);
      keep(original, copy);
      swatch.append(copy);
    }
    add("text", {x: x + 34, y: y + 10, "font-size": "12px", fill: colour}, label);
    x += space;
  }
  figure.classList.remove("light");
  const top = (x > 4 || y > 30 ? y + 22 : 28);
  const whole = document.createElementNS(SVG, "svg");
  const size = {viewBox: `0 0 ${wide} ${high + top}`, width: wide, height: high + top, "font-family": "sans-serif"};
  for (const [key, value] of Object.entries(size)) whole.setAttribute(key, value);
  add("rect", {width: "100%", height: "100%", fill: "#ffffff"});
  whole.append(head.pop(), ...head, picture);
  for (const name of ["role", "aria-label", "class", "tabindex"]) picture.removeAttribute(name);
  picture.setAttribute("y", top);
  return new XMLSerializer().serializeToString(whole);
};

// Joins the best of the marks that are shown: each is better than all marks to its left.
const drawFront = (figure) => {
  for (const group of figure.querySelectorAll("g[data-front]")) {
    const line = group.querySelector(".line"), sign = group.dataset.front === "highest" ? 1 : -1, best = [];
    const shown = [...group.closest("svg").querySelectorAll(".mark[data-at]")].filter((mark) => !mark.closest(".off"));
    const points = shown.map((mark) => mark.dataset.at.split(" ").map(Number));
    points.sort((one, other) => one[0] - other[0] || sign * (one[1] - other[1]));
    for (const point of points) if (!best.length || sign * point[1] < sign * best.at(-1)[1]) best.push(point);
    line?.setAttribute("d", best.length > 1 ? `M${best.map((point) => point.map((at) => at.toFixed(1)).join(" ")).join("L")}` : "");
  }
};

for (const figure of document.querySelectorAll("figure.chart")) {
  const words = new Map();
  for (const title of figure.querySelectorAll("svg title")) {
    words.set(title.parentNode, title.textContent);
    title.remove();
  }
  const isLevel = (mark) => mark.classList.contains("level");
  // Of each picture, Tab reaches the first mark that is not hidden.
  const choose = () => {
    for (const svg of figure.querySelectorAll(".pictures > div > svg")) {
      const marks = [...words.keys()].filter((mark) => svg.contains(mark) && !isLevel(mark));
      for (const mark of marks) mark.setAttribute("tabindex", "-1");
      marks.find((mark) => !mark.closest(".off"))?.setAttribute("tabindex", "0");
    }
  };
  const name = figure.querySelector("strong").textContent.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const bar = document.createElement("div");
  bar.className = "save";
  for (const [label, kind, content] of [
    ["SVG", "image/svg+xml", () => written(figure, words)],
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

  for (const item of figure.querySelectorAll(".legend li")) {
    const button = document.createElement("button"), key = item.dataset.series;
    button.append(...item.childNodes);
    button.setAttribute("aria-pressed", "true");
    button.title = "Show or hide";
    button.addEventListener("click", () => {
      const hidden = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!hidden));
      for (const group of figure.querySelectorAll(`.pictures g[data-series="${key}"]`)) group.classList.toggle("off", hidden);
      drawFront(figure);
      choose();
    });
    item.append(button);
  }
  figure.addEventListener("filtered", () => { drawFront(figure); choose(); });
  if (!words.size) continue;

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);
  const tell = (mark) => {
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = words.get(mark);
    const outer = figure.getBoundingClientRect(), box = mark.getBoundingClientRect();
    const middle = (Math.max(box.left, outer.left) + Math.min(box.right, outer.right)) / 2 - outer.left;
    const left = Math.min(Math.max(middle - tip.offsetWidth / 2, 4), outer.width - tip.offsetWidth - 4);
    tip.style.left = `${left}px`;
    tip.style.top = `${box.top - outer.top - tip.offsetHeight - 8}px`;
  };
  const shownMarks = () => [...words.keys()].filter((mark) => mark.getClientRects().length && !mark.closest(".off"));
  // A line spans the chart: it counts only where no mark is near.
  const nearest = (event) => {
    let found = null, least = 28, line = null, leastToLine = 8;
    for (const mark of shownMarks()) {
      const box = mark.getBoundingClientRect();
      const x = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
      const y = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
      const distance = Math.hypot(x, y);
      if (isLevel(mark)) { if (distance < leastToLine) [line, leastToLine] = [mark, distance]; }
      else if (distance < least) [found, least] = [mark, distance];
    }
    return found ?? line;
  };
  for (const kind of ["pointermove", "pointerdown"]) figure.addEventListener(kind, (event) => tell(nearest(event)));
  figure.addEventListener("pointerleave", () => tell(null));

  // One mark of each picture can be reached with Tab; arrows go on from there, in a series or to the next one.
  for (const svg of figure.querySelectorAll(".pictures > div > svg")) svg.setAttribute("role", "group");
  for (const [mark, text] of words) {
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", text);
    mark.setAttribute("tabindex", "-1");
  }
  choose();
  figure.addEventListener("focusin", (event) => { if (words.has(event.target)) tell(event.target); });
  figure.addEventListener("focusout", () => tell(null));
  figure.addEventListener("keydown", (event) => {
    const from = event.target, marks = shownMarks();
    if (!words.has(from)) return;
    if (event.key === "Escape") { tell(null); return; }
    const groups = [...new Set(marks.map((mark) => mark.parentNode))], own = groups.indexOf(from.parentNode);
    const of = (group) => marks.filter((mark) => mark.parentNode === group);
    const middle = (mark) => { const box = mark.getBoundingClientRect(); return box.left + box.width / 2; };
    const here = marks.indexOf(from);
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key], turn = {ArrowDown: 1, ArrowUp: -1}[event.key];
    let to = null;
    if (step) to = marks[(here + step + marks.length) % marks.length];
    else if (event.key === "Home") to = of(from.parentNode)[0];
    else if (event.key === "End") to = of(from.parentNode).at(-1);
    else if (turn) {
      const others = of(groups[(own + turn + groups.length) % groups.length]);
      to = others.reduce((one, other) =>
        Math.abs(middle(other) - middle(from)) < Math.abs(middle(one) - middle(from)) ? other : one);
    }
    if (!to) return;
    event.preventDefault();
    from.setAttribute("tabindex", "-1");
    to.setAttribute("tabindex", "0");
    to.focus();
  });
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
      figure.dispatchEvent(new Event("filtered"));
    }
    fitAll();
  };
  bar.addEventListener("change", filter);
  // In sight of the charts that it changes.
  (document.querySelector(".charts") ?? table.closest(".scroll")).before(bar);
  filter();
}
