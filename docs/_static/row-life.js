// The life of a row, in docs/how-it-works.md: draws ROW_LIFE (row-life-data.js) as two curves over the steps.
// No library; colours are those of the theme, light or dark.
"use strict";

(() => {
  const figure = document.getElementById("row-life");
  if (!figure || typeof ROW_LIFE === "undefined") return;
  const { steps, rows, runs } = ROW_LIFE;

  figure.innerHTML = `
    <div class="row-life-controls">
      <label>Row <select data-row>${rows.map((row, i) => `<option value="${i}">${row.name}</option>`).join("")}</select></label>
      <label>lambda21 <input data-lambda type="range" min="0" max="${runs.length - 1}" step="1"><output></output></label>
      <label>step <input data-step type="range" min="1" max="${steps}" step="1"><output></output></label>
    </div>
    <svg data-chart="score" role="img" aria-label="score of the row over the steps, against the threshold"></svg>
    <svg data-chart="norm" role="img" aria-label="norm of the row over the steps"></svg>
    <p data-values aria-live="polite"></p>
    <p data-run></p>`;
  const find = selector => figure.querySelector(selector);
  const rowOf = find("[data-row]"), lambdaOf = find("[data-lambda]"), stepOf = find("[data-step]");
  rowOf.value = rows.length - 1;
  lambdaOf.value = runs.findIndex(run => run.lambda21 === 0.2);
  stepOf.value = steps;

  const LEFT = 44, RIGHT = 8, TOP = 22, HEIGHT = 190, BOTTOM = 30;

  // What is drawn: a row in the run of one lambda21. Its values change only at its touches.
  const shown = () => {
    const r = +rowOf.value, run = runs[+lambdaOf.value];
    return { at: rows[r].steps, lambda21: run.lambda21, run, ...run.rows[r] };
  };

  // The last touch up to a step: -1 before the first.
  const touch = (at, step) => at.findLastIndex(s => s <= step);

  // Spans of steps, each from a touch that left the row at zero to the next touch that does not.
  const deaths = ({ at, norm }) => {
    const spans = [];
    norm.forEach((n, i) => {
      if (n !== 0) return;
      if (norm[i - 1] !== 0) spans.push([at[i], 0]);
      spans.at(-1)[1] = at[i + 1] ?? steps;
    });
    return spans;
  };

  const axisMax = value => {
    const unit = 10 ** Math.floor(Math.log10(value || 1));
    return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map(n => n * unit).find(n => n >= value * 0.999);
  };
  // Scores are drawn beside their threshold; norms at one scale for all lambda21, so that they can be compared.
  const maximum = name => {
    const values = run => run.rows[+rowOf.value][name], { run, lambda21 } = shown();
    return axisMax(Math.max(...name === "score" ? [lambda21, ...values(run)] : runs.flatMap(values)));
  };

  const element = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    made.textContent = text;
    return made;
  };

  const draw = (name, title, threshold) => {
    const svg = find(`[data-chart=${name}]`), data = shown(), most = maximum(name);
    const width = Math.max(figure.clientWidth, 280), right = width - RIGHT, floor = TOP + HEIGHT;
    const x = step => LEFT + (right - LEFT) * step / steps;
    const y = value => floor - HEIGHT * Math.min(value / most, 1);
    const add = (kind, attributes, text) => svg.append(element(kind, attributes, text));
    svg.setAttribute("viewBox", `0 0 ${width} ${floor + BOTTOM}`);
    svg.replaceChildren();
    for (const [from, to] of deaths(data)) {
      add("rect", { class: "dead", x: x(from), y: TOP, width: x(to) - x(from), height: HEIGHT });
    }
    for (const value of [0, most / 2, most]) {
      add("line", { class: "grid", x1: LEFT, x2: right, y1: y(value), y2: y(value) });
      add("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, String(+value.toPrecision(3)));
    }
    for (let step = 0; step <= steps; step += steps / 4) {
      add("text", { x: x(step), y: floor + 16, "text-anchor": step < steps ? "middle" : "end" }, String(step));
    }
    for (const step of data.at) add("line", { class: "touch", x1: x(step), x2: x(step), y1: floor, y2: floor + 4 });
    add("text", { class: "title", x: LEFT, y: 13 }, title);
    const path = data[name].map((v, i) => `${i ? "V" : `M${x(data.at[0])} `}${y(v)}H${x(data.at[i + 1] ?? steps)}`);
    add("path", { class: "curve", d: path.join("") });
    if (threshold) {
      add("line", { class: "threshold", x1: LEFT, x2: right, y1: y(data.lambda21), y2: y(data.lambda21) });
    }
    add("line", { class: "cursor", x1: x(+stepOf.value), x2: x(+stepOf.value), y1: TOP, y2: floor });
  };

  const say = () => {
    const { at, lambda21, score, norm, run } = shown(), step = +stepOf.value, i = touch(at, step);
    find("[data-lambda] + output").value = lambda21;
    find("[data-step] + output").value = step;
    const batch = at[i] === step ? "in this batch" : `not in this batch, last in that of step ${at[i]}: unchanged since`;
    find("[data-values]").textContent = i < 0
      ? `Step ${step}: the row has not been in a batch yet and keeps its initial value.`
      : `Step ${step}, ${batch}. Score ${score[i]} ${score[i] > lambda21 ? "above" : "not above"} the threshold `
        + `${lambda21}; ||x|| = ${norm[i]}: ${norm[i] ? "the row lives" : "the row is dead"}.`;
    find("[data-run]").textContent = `With lambda21 = ${lambda21} the model ends with ${run.alive} of its `
      + `${ROW_LIFE.features} rows; logloss of the second half ${run.loss}.`;
  };

  const show = () => {
    draw("score", "score, and the threshold (dashed)", true);
    draw("norm", "||x||, what the net reads", false);
    say();
  };

  for (const input of [rowOf, lambdaOf, stepOf]) input.addEventListener("input", show);
  for (const svg of figure.querySelectorAll("svg")) {
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect();
      const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
      stepOf.value = Math.round(share * steps);  // the slider keeps it within its ends
      show();
    });
  }
  let width = 0;
  new ResizeObserver(() => {
    if (figure.clientWidth === width) return;
    width = figure.clientWidth;
    show();
  }).observe(figure);
  show();
})();
