(() => {
  "use strict";
  document.documentElement.classList.add("js");
  const table = document.querySelector("table.utterances");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const control = (name) => document.getElementById(`filter-${name}`);
  const [text, outcome, set] = ["text", "outcome", "set"].map(control);

  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits =
        (!wanted || texts.get(row).includes(wanted)) &&
        (!set.value || row.dataset.set === set.value) &&
        (!outcome.value || row.dataset.outcome === outcome.value || (outcome.value === "wrong" && row.dataset.after !== "0"));
      row.hidden = !fits;
      shown += fits;
    }
    document.getElementById("shown").textContent = `${shown} of ${rows.length}`;
  };
  text.addEventListener("input", filter);
  outcome.addEventListener("change", filter);
  set.addEventListener("change", filter);
  control("reset").addEventListener("click", () => {
    text.value = outcome.value = set.value = "";
    filter();
  });

  const numbers = new Set(["change", "before", "after", "seconds"]);
  const value = (row, key) => {
    if (key === "reference") return row.querySelector(".reference").textContent;
    return numbers.has(key) ? Number(row.dataset[key]) : row.dataset[key];
  };
  const compare = (one, other) =>
    typeof one === "number" ? one - other : one.localeCompare(other, "en", { numeric: true, sensitivity: "base" });
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = rows.map((row) => [value(row, button.dataset.key), row]);
      keyed.sort((one, other) => (down ? compare(other[0], one[0]) : compare(one[0], other[0])));
      body.append(...keyed.map(([, row]) => row));
    });
  }

  // One recording at a time.
  document.addEventListener("play", (event) => {
    for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
  }, true);

  // What is folded away on the screen belongs on paper; not so for single utterances, whose style sheet leaves it out.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
