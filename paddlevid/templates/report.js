
"use strict";
// Tables are sorted by a click on a heading; once more: the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, at) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) =>
        "value" in a.dataset ? a.dataset.value - b.dataset.value
          : a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
      const rows = [...table.tBodies[0].rows].sort(
        (a, b) => (up ? 1 : -1) * compare(a.cells[at], b.cells[at]));
      table.tBodies[0].append(...rows);
    });
  });
}
// The confusion matrix says what a cell is.
const matrix = document.getElementById("matrix");
if (matrix) {
  const { classes, cells } = JSON.parse(document.getElementById("confusion").textContent);
  const found = new Map(cells.map(([row, column, ...rest]) => [row * classes.length + column, rest]));
  const cell = Number(matrix.dataset.cell), margin = Number(matrix.dataset.margin);
  const said = document.getElementById("said");
  const marks = { row: document.getElementById("row"), column: document.getElementById("column") };
  const leave = () => {
    said.hidden = true;
    marks.row.setAttribute("height", 0);
    marks.column.setAttribute("width", 0);
  };
  const point = (event) => {
    const box = matrix.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - margin) / cell);
    const row = Math.floor((event.clientY - box.top - margin) / cell);
    if (Math.min(row, column) < 0 || Math.max(row, column) >= classes.length) return leave();
    const [count, share] = found.get(row * classes.length + column) ?? [0, 0];
    said.textContent =
      `label ${classes[row]}, predicted ${classes[column]}: ${count} clip${count === 1 ? "" : "s"}` +
      `, ${(100 * share).toFixed(1)} % of the class`;
    said.hidden = false;
    const left = Math.min(event.clientX + 14, innerWidth - said.offsetWidth - 8);
    said.style.left = `${Math.max(left, 8)}px`;
    said.style.top = `${Math.max(event.clientY - said.offsetHeight - 12, 8)}px`;
    marks.row.setAttribute("y", margin + row * cell);
    marks.row.setAttribute("height", cell);
    marks.column.setAttribute("x", margin + column * cell);
    marks.column.setAttribute("width", cell);
  };
  // With its own titles a browser would say the same a second time.
  matrix.querySelectorAll("title").forEach((title) => title.remove());
  for (const kind of ["pointermove", "pointerdown"]) matrix.addEventListener(kind, point);
  matrix.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
  document.addEventListener("scroll", leave, true);
}
