// Draws the figures, sorts tables and shows the samples of one run. Needs no network.
(() => {
  "use strict";

  const choice = document.getElementById("run");

  // Show the cards of one run beside the human's; of every trained run if none is chosen.
  function showSamples(run) {
    for (const card of document.querySelectorAll(".sample")) {
      card.hidden = run ? ![run, "human"].includes(card.dataset.run) : card.dataset.role === "decoding";
    }
    choice.value = run;
  }
  if (choice) choice.addEventListener("change", () => showSamples(choice.value));

  const beginning = document.getElementById("prompt");
  if (beginning) {
    beginning.addEventListener("change", () => {
      document.querySelectorAll(".prompt-block").forEach((block, i) => (block.hidden = i !== beginning.selectedIndex));
    });
  }

  // A click on a heading sorts the rows by that column, highest first. Rows without a value come last.
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const down = heading.getAttribute("aria-sort") !== "descending";
      for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = heading.closest("table").tBodies[0];
      const key = (row) => row.cells[heading.cellIndex].dataset.value;
      const order = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
      const rows = [...body.rows].sort((a, b) => {
        if (!key(a) || !key(b)) return !key(a) - !key(b);
        return down ? order(key(b), key(a)) : order(key(a), key(b));
      });
      body.append(...rows);
    });
  }

  async function unpack(id) {
    const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  async function drawFigures() {
    const library = document.createElement("script");
    library.textContent = await unpack("plotly");
    document.head.append(library);
    for (const plot of document.querySelectorAll(".plot")) {
      const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
      await Plotly.newPlot(plot, data, layout, { displaylogo: false, responsive: true });
      plot.on("plotly_click", (event) => {
        const run = event.points[0].customdata;
        if (!run || run === "human") return;
        showSamples(run);
        document.getElementById("samples").scrollIntoView({ behavior: "smooth" });
      });
    }
  }

  const drawn = drawFigures();

  // The frontier on other axes: the page holds the figures of all pairs, compressed.
  const menus = [document.getElementById("up"), document.getElementById("right")];
  for (const menu of menus) {
    menu.addEventListener("change", async () => {
      await drawn;
      const { data, layout } = JSON.parse(await unpack("pairs"))[menus.map((m) => m.value).join(" ")];
      const plot = document.querySelector("#tradeoff .plot");
      Plotly.react(plot, data, { ...layout, template: plot.layout.template });
    });
  }

  drawn.catch((error) => {
    for (const plot of document.querySelectorAll(".plot")) {
      plot.textContent = `This browser cannot draw the figure (${error.message}); the table holds the same numbers.`;
    }
  });
})();
