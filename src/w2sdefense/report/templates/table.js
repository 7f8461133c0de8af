// Sorts and filters the table, and opens the record that a link leads to.
(() => {
  const MANY = 4; // Rows from which on it is worth looking for some of them.
  const CHOICES = 12; // Values of a column that a list of choices can hold.
  const DASH = "\u2013"; // What is not known comes last, however one sorts.

  const table = document.getElementById("results");
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows].map((node) => ({
    node,
    text: node.textContent.toLowerCase(),
    values: [...node.cells].map(({ dataset, textContent }) =>
      "number" in dataset ? Number(dataset.number) : textContent.trim(),
    ),
    words: [...node.cells].map((cell) => cell.textContent.trim()),
  }));
  const order = { column: 0, sign: 0 };
  const filters = []; // {column, select}
  const search = document.getElementById("results-search");

  const compare = (a, b) => {
    const [x, y] = [a.values[order.column], b.values[order.column]];
    if ((x === DASH) !== (y === DASH)) return x === DASH ? 1 : -1;
    if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
    return order.sign * (typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true }));
  };

  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = rows.filter(
      ({ text, words }) =>
        text.includes(wanted) && filters.every(({ column, select }) => !select.value || words[column] === select.value),
    );
    if (order.sign) found.sort(compare);
    table.tBodies[0].replaceChildren(...found.map(({ node }) => node));
    document.getElementById("results-shown").textContent = `${found.length} of ${rows.length} rows`;
  };

  // Up, down, and back to the order of the table.
  const sortBy = (column) => {
    order.sign = order.column !== column ? 1 : { 0: 1, 1: -1, [-1]: 0 }[order.sign];
    order.column = column;
    for (const head of heads) head.removeAttribute("aria-sort");
    if (order.sign) heads[column].setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
    update();
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sortBy(column));
    const values = new Set(rows.map(({ words }) => words[column]));
    head.replaceChildren(button);
    if (!("filter" in head.dataset) || values.size < 2 || values.size > CHOICES || values.size === rows.length) return;
    const select = document.createElement("select");
    select.append(new Option("all", ""), ...[...values].map((value) => new Option(value, value)));
    select.addEventListener("input", update);
    const label = document.createElement("label");
    label.append(`${button.textContent} `, select);
    document.getElementById("results-shown").before(label);
    filters.push({ column, select });
  });

  search.addEventListener("input", update);
  document.getElementById("results-tools").hidden = rows.length < MANY;
  update();

  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!(target instanceof HTMLDetailsElement)) return;
    target.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  // A second click on the same link does not change the address.
  document.addEventListener("click", (event) => event.target.closest("a[href^='#']") && setTimeout(open));
  open();
})();
