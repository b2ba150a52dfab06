// Filters, figures and the calculator of the page. `costmodel`, `vegaEmbed` and the element `data` stand before it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);

  // Figures take their colours from the page, so that both themes are legible.
  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const [text, faint, line] = [of("--text"), of("--faint"), of("--line")];
    return {
      background: "transparent",
      font: "system-ui, Liberation Sans, Arial, sans-serif",
      view: { stroke: line },
      axis: { labelColor: text, titleColor: faint, gridColor: line, domainColor: faint, tickColor: faint, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      legend: { labelColor: text, titleColor: faint, labelFontSize: 12 },
      rule: { color: text },
      tick: { color: text },
      line: { color: faint },
      style: { value: { stroke: text, strokeWidth: 0.6 } },
    };
  }

  const drawn = new Map();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Draw what is visible and not drawn yet; a figure needs its width.
  function draw() {
    for (const place of document.querySelectorAll("[data-chart]")) {
      if (!place.offsetWidth || drawn.has(place)) continue;
      const spec = structuredClone(data.charts[place.dataset.chart]);
      const narrow = place.offsetWidth < 480;
      for (const { encoding } of narrow ? spec.layer : []) {
        for (const name of ["color", "shape"]) if (encoding[name]?.legend) encoding[name].legend.columns = 1;
        if (encoding.y?.axis) encoding.y.axis.labelLimit = 135;
      }
      const options = { actions: false, renderer: "svg", logLevel: 1 /* errors */, config: colours(), tooltip: { theme: dark.matches ? "dark" : "light" } };
      // To a screen reader a figure is one picture, with its values in the table below.
      const hide = (made) => (place.querySelector("svg").setAttribute("aria-hidden", "true"), made);
      drawn.set(place, vegaEmbed(place, spec, options).then(hide));
    }
  }

  async function redraw() {
    const old = [...drawn.values()];
    drawn.clear();
    for (const one of old) (await one).finalize();
    draw();
  }
  dark.addEventListener("change", redraw);

  // One of several parts is shown: that of the chosen run, or of the chosen student.
  function chooser(select, parts) {
    if (!select) return;
    const show = () => {
      for (const part of document.querySelectorAll(parts)) part.hidden = part.id !== select.value;
      draw();
    };
    select.addEventListener("change", show);
    show();
  }

  function filter() {
    const [run, area, verdict, words] = ["by-run", "by-area", "by-verdict", "by-words"].map((id) => find(id)?.value ?? "");
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    let claims = 0, findings = 0;
    for (const claim of document.querySelectorAll(".claim")) {
      const text = claim.textContent.toLowerCase();
      const fits = (!area || claim.dataset.area === area) && wanted.every((word) => text.includes(word));
      let shown = 0;
      for (const finding of claim.querySelectorAll(".finding")) {
        const ofRun = !run || finding.dataset.run === run || finding.dataset.run.startsWith(`${run}/`);
        finding.hidden = !(ofRun && (!verdict || finding.dataset.verdict === verdict));
        shown += !finding.hidden;
      }
      claim.hidden = !fits || !shown;
      if (!claim.hidden) { claims += 1; findings += shown; }
    }
    const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
    find("count").textContent = `${plural(claims, "claim")}, ${plural(findings, "verdict")} shown.`;
  }

  // The calculator.
  const FIELDS = data.shape_fields;
  const value = (id) => Number(find(id).value);
  const digits = (number, places = 2) => number.toFixed(places);

  function fill() {
    const shape = data.shapes[find("preset").value];
    if (!shape) return;
    for (const key of FIELDS) find(key).value = shape[key] ?? shape.hidden_size / shape.num_attention_heads;
    find("skipped").value = Math.round(shape.num_hidden_layers / 2);
  }

  // What each run reached of the limit at points whose ratio of prompt to output tokens is within a factor of 2.
  function reached(limit, inputLen, outputLen) {
    const near = data.reached.filter((one) => {
      const factor = one.input_len / one.output_len / (inputLen / outputLen);
      return factor >= 0.5 && factor <= 2;
    });
    const body = find("reached-table").tBodies[0];
    body.replaceChildren();
    for (const run of new Set(near.map((one) => one.run))) {
      const shares = near.filter((one) => one.run === run).map((one) => one.share).sort((a, b) => a - b);
      const middle = (shares[Math.floor((shares.length - 1) / 2)] + shares[Math.ceil((shares.length - 1) / 2)]) / 2;
      const all = [middle, shares[0], shares[shares.length - 1]];
      const [share, low, high] = all.map((one) => `${Math.round(100 * one)}%`);
      const [gain, least, most] = all.map((one) => digits(Math.max(1, one * limit)));
      const row = body.insertRow();
      for (const cell of [run, shares.length, `${share} (${low} to ${high})`, `${gain} (${least} to ${most})`]) {
        row.insertCell().textContent = cell;
      }
    }
    find("reached-table").hidden = !near.length;
    return near.length ? "" : " No run on this page measured such a ratio of prompt to output tokens.";
  }

  // What the roofline model predicts for this model and student, at the prompt length that is nearest.
  function forecast(model, share, group, inputLen) {
    const far = (one) => Math.abs(Math.log(one.input_len / inputLen));
    const known = data.forecasts.filter((one) => one.model === model && Math.abs(one.skip - share) < 1e-6 && one.group === group);
    if (!known.length) return "";
    const best = known.reduce((a, b) => (far(b) < far(a) ? b : a));
    return ` The roofline model predicts ${digits(best.speedup)} on a busy ${best.gpu} at ` +
      `${best.input_len}:${best.output_len} tokens.`;
  }

  function calculate() {
    const shape = Object.fromEntries(FIELDS.map((key) => [key, value(key)]));
    const [inputLen, outputLen, skipped, group] = ["input_len", "output_len", "skipped", "group"].map(value);
    const layers = shape.num_hidden_layers;
    const body = find("calculated-table").tBodies[0];
    const wrong = costmodel.problem(shape, layers - skipped, group, inputLen, outputLen);
    body.replaceChildren();
    find("reached-table").hidden = Boolean(wrong);
    if (wrong) {
      find("calculated").textContent = `Not possible: ${wrong}.`;
      return;
    }
    const limit = costmodel.speedupLimit(shape, layers - skipped, group, inputLen, outputLen);
    find("calculated").textContent =
      `Limit: ${digits(limit)} times the base's throughput with ${skipped} of ${layers} layers skipped.` +
      reached(limit, inputLen, outputLen) + forecast(find("preset").value, skipped / layers, group, inputLen);
    const choices = [[skipped, group]];
    for (const share of [0.25, 0.5, 0.625, 0.75]) for (const n of [1, 2, 4]) {
      const late = Math.round(share * layers);
      if (late < layers && late % n === 0 && !(late === skipped && n === group)) choices.push([late, n]);
    }
    for (const [late, n] of choices) {
      const cut = layers - late;
      const row = body.insertRow();
      const cells = [
        `${digits((100 * late) / layers, 1)}% (${late} of ${layers})`,
        n,
        digits(costmodel.speedupLimit(shape, cut, n, inputLen, outputLen)),
        digits(costmodel.speedupLimit(shape, cut, n, inputLen, 1)),
        `${digits(costmodel.kvCapacityRatio(shape, cut, n))} x, ${(costmodel.kvBytesPerToken(shape, cut, n) / 1024).toFixed(0)} KiB each at 16 bit`,
      ];
      for (const cell of cells) row.insertCell().textContent = cell;
    }
    body.rows[0].classList.add("chosen");
  }

  if (find("count")) {
    const form = find("count").previousElementSibling;
    for (const kind of ["input", "change"]) form.addEventListener(kind, filter);
    form.addEventListener("reset", () => setTimeout(filter));
    filter();
  }
  chooser(find("run-shown"), ".of-run");
  chooser(find("student-shown"), ".of-student");
  find("preset").addEventListener("change", () => { fill(); calculate(); });
  find("calculate").addEventListener("input", (event) => {
    if (FIELDS.includes(event.target.id)) find("preset").value = "";
    calculate();
  });
  fill();
  calculate();
  draw();
})();
