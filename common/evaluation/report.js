// Draws the report's charts and fills its viewer, from the JSON that stands in the page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  /** Gives a select its options, [value, text] each, and chooses one of them. */
  function fill(select, options, chosen) {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
  }

  // Charts ----------------------------------------------------------------------------------------------------------

  const choice = { convention: Object.keys(data.charts)[0], metric: "psnr" };

  function drawCharts() {
    const metrics = data.charts[choice.convention];
    if (!(choice.metric in metrics)) choice.metric = Object.keys(metrics)[0];
    const options = {
      convention: Object.keys(data.charts).map((name) => [name, name]),
      metric: Object.entries(metrics).map(([name, { label }]) => [name, label]),
    };
    for (const select of all("[data-choice]")) {
      fill(select, options[select.dataset.choice], choice[select.dataset.choice]);
    }
    for (const box of all("[data-chart]")) {
      const { data: traces, layout } = metrics[choice.metric][box.dataset.chart];
      Plotly.react(box, traces, layout, { responsive: true, displayModeBar: false });
    }
  }

  for (const select of all("[data-choice]")) {
    select.addEventListener("change", () => {
      choice[select.dataset.choice] = select.value;
      drawCharts();
    });
  }
  drawCharts();

  // Viewer ----------------------------------------------------------------------------------------------------------

  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const colours = data.colours.map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)));
  const state = { subject: "", source: "", target: "", plane: "all", frame: 0, slices: {} }; // slices: an index by plane
  const pictures = new Map();

  const subject = () => data.subjects.find(({ subject }) => subject === state.subject);

  function decoded(sheet) {
    if (!pictures.has(sheet)) {
      const picture = new Image();
      picture.src = `data:image/webp;base64,${sheet}`;
      pictures.set(sheet, picture.decode().then(() => picture));
    }
    return pictures.get(sheet);
  }

  /** How many frames the longer of the two has. */
  function mostFrames() {
    return Math.max(...[state.source, state.target].map((name) => subject().series[name]?.frames.length ?? 1));
  }

  /** The chosen frame of a sequence, or its last, and what it is called; the only one of what is no series. */
  function frameOf(name) {
    const frames = subject().series[name]?.frames;
    const place = frames ? Math.min(state.frame, frames.length - 1) : 0;
    return { place, text: frames ? `${name}, ${frames[place]}` : name };
  }

  /** Where each panel's picture is, and what stands below it. */
  function panels({ sheets }) {
    const { source, target } = state;
    const [i, j] = [source, target].map((name) => subject().sequences.indexOf(name));
    const [from, to] = [source, target].map(frameOf);
    const pick = (sheet, { place }) => (Array.isArray(sheet) ? sheet[place] : sheet);
    const differentiation = pick(sheets.differentiation[j], to);
    const lacking = sheets.differentiation[0] ? "frame is missing" : "M_d needs another source";
    return {
      source: { sheet: pick(sheets.source[i], from), caption: `Source: ${from.text}` },
      synthesised: { sheet: pick(sheets.synthesised[i][j], to), caption: `Synthesised: ${to.text}` },
      true: { sheet: pick(sheets.true[j], to), caption: `True: ${to.text}` },
      error: { sheet: pick(sheets.error[i][j], to), caption: `|error|: ${to.text} from ${source}`, coloured: true },
      differentiation: { sheet: differentiation, caption: `M_d: ${to.text} from others`, coloured: true, lacking },
    };
  }

  /** A target's curves in each region: what is true as lines, what is synthesised dashed. */
  function drawCurves() {
    const box = one(".curves", viewer);
    const series = subject().series[state.target];
    box.hidden = !series;
    if (!series) return;
    const kinds = { true: [series.true, "solid"], synthesised: [series.synthesised[state.source], "dash"] };
    const traces = Object.entries(kinds).flatMap(([kind, [curves, dash]]) =>
      Object.entries(curves).map(([place, y], k) => ({
        x: series.x, y, name: `${place}, ${kind}`, mode: "lines+markers", line: { dash, color: data.curves.colorway[k] },
      })),
    );
    const titles = { xaxis: { title: { text: series.axis } }, yaxis: { title: { text: `${state.target}, relative to the first` } } };
    Plotly.react(box, traces, { ...data.curves.layout, ...titles }, { responsive: true, displayModeBar: false });
  }

  /** Copies one slice of a sheet to a canvas, and gives it the error's colours if it is to be `coloured`. */
  async function paint(canvas, plane, { sheet, coloured }) {
    const order = (canvas.order = {}); // a later order overtakes one whose picture is still being decoded
    const picture = sheet && (await decoded(sheet));
    if (canvas.order !== order) return;
    const [width, height] = plane.size;
    const index = state.slices[plane.name];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(canvas, { width, height }); // which also clears it
    if (!picture) return;
    const [left, top] = [(index % plane.columns) * width, Math.floor(index / plane.columns) * height];
    context.drawImage(picture, left, top, width, height, 0, 0, width, height);
    if (!coloured) return;
    const image = context.getImageData(0, 0, width, height);
    for (let k = 0; k < image.data.length; k += 4) image.data.set(colours[image.data[k]], k);
    context.putImageData(image, 0, 0);
  }

  function drawPlane(plane) {
    const section = one(`[data-plane=${plane.name}]`, viewer);
    const voxel = plane.voxels[state.slices[plane.name]];
    one("output", section).textContent = voxel;
    for (const [name, panel] of Object.entries(panels(plane))) {
      const figure = one(`[data-panel=${name}]`, section);
      const canvas = one("canvas", figure);
      const caption = panel.sheet ? panel.caption : `${panel.caption}: ${panel.lacking ?? "frame is missing"}`;
      one("figcaption", figure).textContent = caption;
      canvas.setAttribute("aria-label", `${caption}, ${plane.name} slice ${voxel}`);
      paint(canvas, plane, panel);
    }
  }

  /** Everything that depends on the chosen subject, pair and plane. */
  function drawViewer() {
    const { planes, sequences, scores } = subject();
    const names = sequences.map((name) => [name, name]);
    const options = {
      subject: data.subjects.map(({ subject }) => [subject, subject]),
      source: names,
      target: names,
      plane: [["all", "all three"], ...planes.map(({ name }) => [name, name])],
    };
    for (const [name, values] of Object.entries(options)) fill(one(`[name=${name}]`, viewer), values, state[name]);
    one(".scores", viewer).textContent = scores[state.source]?.[state.target] ?? "No scores of this pair.";
    one(".planes", viewer).classList.toggle("one", state.plane !== "all");
    for (const section of all(".plane", viewer)) {
      section.hidden = state.plane !== "all" && state.plane !== section.dataset.plane;
    }

    const most = mostFrames();
    const frames = one(".frames", viewer);
    frames.hidden = most === 1;
    Object.assign(one("input", frames), { max: most - 1, value: state.frame });
    one("output", frames).textContent = `${state.frame + 1} of ${most}`;
    drawCurves();

    const shown = planes.filter(({ name }) => state.plane === "all" || state.plane === name);
    const widest = Math.max(...shown.flatMap(({ mm }) => mm));
    for (const plane of shown) {
      const section = one(`[data-plane=${plane.name}]`, viewer);
      const slider = one("input", section);
      slider.max = plane.voxels.length - 1;
      slider.value = state.slices[plane.name];
      for (const { style } of all("canvas", section)) {
        style.aspectRatio = `${plane.mm[0]} / ${plane.mm[1]}`; // voxels need not be cubes
        style.width = `${(100 * plane.mm[0]) / widest}%`; // what stands together is on one scale
      }
      drawPlane(plane);
    }
  }

  /** Chooses what is asked for as far as there is such a thing, else the subject's worst pair and fullest slices. */
  function choose(wanted) {
    const changed = wanted.subject !== undefined && wanted.subject !== state.subject;
    if (data.subjects.some(({ subject }) => subject === wanted.subject)) state.subject = wanted.subject;
    state.subject ||= data.subjects[0].subject;
    const { sequences, start, planes } = subject();
    for (const [k, name] of ["source", "target"].entries()) {
      if (sequences.includes(wanted[name])) state[name] = wanted[name];
      if (!sequences.includes(state[name])) state[name] = start[k];
    }
    if (wanted.plane === "all" || planes.some(({ name }) => name === wanted.plane)) state.plane = wanted.plane;
    const most = mostFrames();
    state.frame = Math.max(0, Math.min(Number(wanted.frame ?? state.frame) || 0, most - 1));
    for (const { name, voxels, fullest } of planes) {
      if (changed || !(name in state.slices)) state.slices[name] = fullest;
      const asked = voxels.indexOf(Number(wanted[name] ?? NaN));
      if (asked >= 0) state.slices[name] = asked;
    }
    drawViewer();
  }

  /** What is shown stands behind the address's #, so that it can be bookmarked and sent. */
  function remember() {
    const { slices, ...shown } = state;
    for (const { name, voxels } of subject().planes) shown[name] = voxels[slices[name]];
    history.replaceState(null, "", `#${new URLSearchParams(shown)}`);
  }

  function followAddress() {
    const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    choose(wanted);
    if (wanted.subject) viewer.scrollIntoView();
  }

  for (const { name, letters } of data.subjects[0].planes) {
    const section = one("template", viewer).content.firstElementChild.cloneNode(true);
    section.dataset.plane = name;
    one("h3", section).textContent = name[0].toUpperCase() + name.slice(1);
    one(".ramp", section).style.background = `linear-gradient(to right, ${data.colours.join()})`;
    one(".end", section).textContent = `≥ ${100 * data.errorShare} % of white`;
    for (const frame of all(".frame", section)) {
      ["left", "right", "top", "bottom"].forEach((side, k) => {
        const mark = Object.assign(document.createElement("span"), { className: side, textContent: letters[k] });
        mark.setAttribute("aria-hidden", "true");
        frame.append(mark);
      });
    }
    one("input", section).addEventListener("input", ({ target }) => {
      state.slices[name] = Number(target.value);
      drawPlane(subject().planes.find((plane) => plane.name === name));
    });
    one("input", section).addEventListener("change", remember);
    one(".planes", viewer).append(section);
  }
  one(".frames input", viewer).addEventListener("input", ({ target }) => choose({ frame: target.value }));
  one(".frames input", viewer).addEventListener("change", remember);
  for (const select of all("select", viewer)) {
    select.addEventListener("change", () => {
      choose({ [select.name]: select.value });
      remember();
    });
  }
  window.addEventListener("hashchange", followAddress);
  followAddress();
})();
