/** Tables that are sorted by a click on a column's head. This file has no imports: the evaluation's page contains it. */

/**
 * Sort a table's rows by a column: numbers before words, ascending first, and the other way at the next call.
 * @param {HTMLTableCellElement} header the column's head
 */
export function sortBy(header) {
  const table = /** @type {HTMLTableElement} */ (header.closest("table"));
  const body = table.tBodies[0];
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  // Reading a key once for each row: a table of thousands of cells is sorted at once.
  const keyed = [...body.rows].map((row) => ({ row, key: sortKey(row.cells[header.cellIndex]) }));
  keyed.sort((a, b) => (ascending ? compareKeys(a.key, b.key) : compareKeys(b.key, a.key)));
  body.append(...keyed.map(({ row }) => row));
}

/** The value of a cell: its data-key if it has one, or its first word, which is a mean where an interval follows. */
function sortKey(cell) {
  const word = cell.dataset.key ?? cell.textContent.trim().split(/\s/)[0];
  return word === "" || Number.isNaN(Number(word)) ? word : Number(word);
}

function compareKeys(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return Number(a > b) - Number(a < b);
}

/** Let the heads of all tables of the class "sortable" sort them. Each head holds a button. */
export function makeSortable() {
  document.addEventListener("click", (event) => {
    const header = /** @type {Element} */ (event.target).closest("table.sortable thead th");
    if (header) sortBy(/** @type {HTMLTableCellElement} */ (header));
  });
}
