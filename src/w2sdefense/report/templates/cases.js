// Lets the reader search the texts, choose among them and turn their pages.
(() => {
  const STEP = 12;
  const list = document.getElementById("cases");
  if (!list) return;
  const [search, group, flipped, model, order, shown, previous, next] = [
    "search", "group", "flipped", "model", "order", "shown", "previous", "next",
  ].map((name) => document.getElementById(`case-${name}`));
  const items = [...list.children].map((node, place) => ({
    node,
    place,
    text: node.textContent.toLowerCase(),
    group: node.dataset.group,
    models: node.dataset.models.split(" "),
    count: -Number(node.dataset.count),
    length: node.firstElementChild.textContent.length,
  }));
  let page = 0;

  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = items.filter(
      (item) =>
        item.text.includes(wanted) &&
        (!group.value || item.group === group.value) &&
        (!flipped.checked || item.count) &&
        (!model.value || item.models.includes(model.value)),
    );
    found.sort((a, b) => a[order.value] - b[order.value] || a.place - b.place);
    page = Math.max(0, Math.min(page, Math.ceil(found.length / STEP) - 1));
    const some = found.slice(page * STEP, (page + 1) * STEP);
    list.replaceChildren(...some.map(({ node }) => node));
    shown.textContent = found.length
      ? `${page * STEP + 1} to ${page * STEP + some.length} of ${found.length} texts`
      : "No such text";
    previous.disabled = page === 0;
    next.disabled = (page + 1) * STEP >= found.length;
  };
  const turn = (by) => () => {
    page += by;
    update();
  };

  for (const control of [search, group, flipped, model, order]) {
    control.addEventListener("input", () => {
      page = 0;
      update();
    });
  }
  previous.addEventListener("click", turn(-1));
  next.addEventListener("click", turn(1));
  document.getElementById("cases-tools").hidden = false;
  document.getElementById("case-pager").hidden = false;
  update();
})();
