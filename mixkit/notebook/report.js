// Draws the figures, sorts tables and shows the samples of one run. Needs no network.
(() => {
  "use strict";

  const choice = document.getElementById("run");

  // Show the cards of one run beside the human's; of every trained run if none is chosen.
  function showSamples(run) {
    for (const card of document.querySelectorAll(".sample[data-run]")) {
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

  // The blind test. The answers are lines as notebook 6 writes them, and stay in this browser.
  async function blindTest(panel) {
    const pairs = JSON.parse(await unpack("blind-pairs"));
    const place = `mixkit blind test of ${panel.dataset.study}`;
    const cards = panel.querySelectorAll(".sample");
    const buttons = [...panel.querySelectorAll("button")];
    const link = panel.querySelector("a");
    const answers = JSON.parse(localStorage.getItem(place) || "[]");
    let pair;
    function showPair() {
      pair = pairs.find(({ prompt }) => !answers.some((answer) => answer.prompt === prompt));
      document.getElementById("blind-count").textContent = `${answers.length} answers; ${pairs.length} pairs`;
      cards.forEach((card, side) => {
        card.children[1].textContent = pair ? pair.prompt : "";
        card.children[2].textContent = pair ? pair.texts[side] : "";
      });
      for (const button of buttons) button.disabled = !pair;
      const lines = answers.map((answer) => `${JSON.stringify(answer)}\n`);
      URL.revokeObjectURL(link.href);
      link.href = URL.createObjectURL(new Blob(lines));
    }
    function answer(side) {
      if (!pair) return;
      const [left, right] = pair.sources;
      const facts = { question: "person", prompt: pair.prompt, left, right, chosen: pair.sources[side] };
      answers.push({ ...facts, time: Date.now() / 1000 });
      localStorage.setItem(place, JSON.stringify(answers));
      showPair();
    }
    buttons.forEach((button, side) => button.addEventListener("click", () => answer(side)));
    panel.addEventListener("keydown", (event) => {
      if (!event.repeat && ["1", "2"].includes(event.key)) answer(Number(event.key) - 1);
    });
    showPair();
  }
  const panel = document.getElementById("blind");
  if (panel) {
    blindTest(panel).catch((error) => {
      document.getElementById("blind-count").textContent = `This browser cannot keep answers (${error.message}).`;
    });
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
