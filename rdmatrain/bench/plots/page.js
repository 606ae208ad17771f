// Draws the report from the data beside it. What comes from records reaches the page as text only.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const at = (id) => document.getElementById(id);
const hidden = new Set(); // numbers of the contestants that are not drawn

// ---- how things are written

function withUnit(value, units) {
  const [scale, unit] = units.find(([least]) => value >= least) ?? units.at(-1);
  return `${Number((value / scale).toPrecision(3))} ${unit}`;
}
const TIMES = [[1, "s"], [1e-3, "ms"], [1e-6, "\u00b5s"], [1e-9, "ns"]];
const SIZES = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const time = (seconds) => withUnit(seconds, TIMES);
const size = (nbytes) => withUnit(nbytes, SIZES);
const digits = (value) => String(Number(value.toPrecision(3)));
const percent = (part) => `${Number((100 * part).toPrecision(3))} %`;
// plotly reads some HTML in texts.
const MARKS = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
const plain = (text) => String(text).replace(/[&<>]/g, (mark) => MARKS[mark]);

function element(parent, name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  parent.append(made);
  return made;
}

// ---- what there is to see. A point has the fields of a record, a curve its points by size.

const TIME_AXIS = { tickformat: "~s", ticksuffix: "s" };
const METRICS = {
  latency: {
    title: "latency", axis: TIME_AXIS,
    value: (point) => point.p50, edge: (point) => point.p99,
    without: () => "",
  },
  busbw: {
    title: "bus bandwidth (GB/s)", axis: { tickformat: "~g" },
    value: (point) => point.busbw || null,
    without: (view) => (view.curves.some((curve) => curve.points.some((point) => point.busbw))
      ? "" : "No bus bandwidth: no data is moved."),
  },
  ratio: {
    title: "time / time of the base", axis: { tickformat: "~g" },
    label: "Base", bases: (view) => view.curves.filter(contests),
    value: (point, base) => point.p50 / base.p50,
    without: (view) => (METRICS.ratio.bases(view).length > 1 ? "" : "No ratio: there is no other contestant."),
  },
  percent: {
    title: "percent of the limit", axis: { ticksuffix: " %" },
    label: "Limit", bases: (view) => view.curves.filter(limits),
    value: (point, limit) => (100 * limit.p50) / point.p50,
    without: (view) => (METRICS.percent.bases(view).length ? ""
      : "No percent of the limit: there is no result of \u201crdmatrain bench limit\u201d for this case."),
  },
};

function contests(curve) {
  return data.contestants[curve.who].contests;
}

function limits(curve) {
  return data.contestants[curve.who].limits;
}

function chosen() {
  const view = data.views[Number(at("view").value)];
  const name = document.querySelector("input[name=metric]:checked").value;
  const metric = METRICS[name];
  const base = metric.bases && metric.bases(view).find((curve) => curve.who === Number(at("base").value));
  return { view, metric, base };
}

// The curves that are drawn: for each the points that have a value, and the values.
function series({ view, metric, base }) {
  const shown = view.curves.filter((curve) => !hidden.has(curve.who));
  const compared = metric.bases ? shown.filter((curve) => curve !== base && contests(curve)) : shown;
  const ofBase = new Map(base?.points.map((point) => [point.nbytes, point]));
  return compared.map((curve) => {
    const points = curve.points.filter((point) => !base || ofBase.has(point.nbytes));
    const values = points.map((point) => metric.value(point, ofBase.get(point.nbytes)));
    const edges = metric.edge ? points.map(metric.edge) : null;
    return { who: curve.who, points, values, edges };
  });
}

function tip(who, point, value, { metric, base }) {
  const row = data.rows[point.row];
  const lines = [`<b>${plain(data.contestants[who].name)}</b>`];
  if (point.nbytes) lines.push(size(point.nbytes));
  lines.push(`p50 ${time(point.p50)}, p99 ${time(point.p99)}`);
  if (typeof row.cv === "number") lines.push(`cv ${percent(row.cv)}`);
  if (point.busbw) lines.push(`busbw ${digits(point.busbw)} GB/s`);
  lines.push(`#wrong ${plain(row.nwrong ?? "not checked")}`);
  if (metric === METRICS.ratio) lines.push(`${digits(value)} x the time of ${plain(data.contestants[base.who].name)}`);
  if (metric === METRICS.percent) lines.push(`${digits(value)} % of the limit`);
  return lines.join("<br>");
}

// ---- the plot

function colour(who) {
  const look = data.contestants[who];
  return dark.matches ? look.dark : look.light;
}

function styled(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function lineTraces(each, state) {
  const { name, symbol, dash } = data.contestants[each.who];
  const x = each.points.map((point) => point.nbytes);
  const line = {
    x, y: each.values, name: plain(name), type: "scatter", mode: dash === "solid" ? "lines+markers" : "lines",
    line: { color: colour(each.who), width: 2.2, dash },
    marker: { symbol, size: 8 }, hovertemplate: "%{text}<extra></extra>",
    text: each.points.map((point, i) => tip(each.who, point, each.values[i], state)),
    meta: { who: each.who },
  };
  const band = {
    x, y: each.edges, type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip",
    fill: "tonexty", fillcolor: `${colour(each.who)}22`, meta: { band: each.who },
  };
  return each.edges && dash === "solid" ? [line, band] : [line];
}

function barTraces(all, state) {
  return all.map((each, place) => ({
    x: each.values, y: [place], type: "bar", orientation: "h", width: 0.6,
    marker: { color: colour(each.who) }, cliponaxis: false, textposition: "outside",
    text: each.values.map((value) => (state.metric === METRICS.latency ? time(value) : digits(value))),
    hovertext: each.points.map((point, i) => tip(each.who, point, each.values[i], state)),
    hovertemplate: "%{hovertext}<extra></extra>", meta: { who: each.who },
  }));
}

// A p99 that is far away must not press the lines together.
function logarithmic(all) {
  const values = all.flatMap((each) => each.values).filter((value) => value > 0);
  if (!values.length) return { type: "log" };
  const [low, high] = [Math.min(...values) / 2, Math.max(...values) * 2];
  return { type: "log", range: [low, high].map(Math.log10), dtick: high / low < 1000 ? "D2" : 1 };
}

function layout(all, { view, metric }) {
  const [grid, line, paper, ink, faint] = ["grid", "line", "paper", "ink", "faint"].map(styled);
  const frame = { gridcolor: grid, linecolor: line, zerolinecolor: line, automargin: true };
  const values = { ...frame, ...metric.axis, title: { text: metric.title } };
  const known = new Set(all.flatMap((each) => each.points.map((point) => point.nbytes)));
  const sizes = [...known].sort((a, b) => a - b);
  const few = sizes.filter((_, i) => i % Math.ceil(sizes.length / 8) === 0);
  const shared = {
    paper_bgcolor: paper, plot_bgcolor: paper, font: { color: ink, size: 13 },
    margin: { l: 20, r: 20, t: 20, b: 20 }, showlegend: false, hovermode: "closest", autosize: true,
  };
  if (!view.sized) {
    const names = all.map((each) => plain(data.contestants[each.who].name));
    const rows = { ...frame, tickvals: names.map((_, i) => i), ticktext: names, autorange: "reversed" };
    return { ...shared, xaxis: values, yaxis: { ...rows, showgrid: false, zeroline: false } };
  }
  const xaxis = { ...frame, type: "log", tickvals: few, ticktext: few.map(size), title: { text: "size" } };
  const yaxis = { ...values, ...(metric === METRICS.percent ? { rangemode: "tozero" } : logarithmic(all)) };
  const one = { type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { color: faint, dash: "dot" } };
  return { ...shared, xaxis, yaxis, shapes: metric === METRICS.ratio ? [one] : [] };
}

// Without the button that sends the data away.
const CONFIG = {
  displaylogo: false, responsive: true, plotlyServerURL: "", displayModeBar: "hover",
  modeBarButtons: [["toImage", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
};

function draw() {
  const state = chosen();
  const all = series(state);
  const { view, metric, base } = state;
  const traces = view.sized ? all.flatMap((each) => lineTraces(each, state)) : barTraces(all, state);
  const notes = Object.values(METRICS).map((each) => each.without(view)).filter(Boolean);
  if (metric === METRICS.ratio) notes.unshift(`Above 1: ${data.contestants[base.who].name} is faster.`);
  if (metric === METRICS.percent) notes.unshift("What part of the time the limit alone would take.");
  if (metric.edge && view.sized) notes.unshift("Lines: median (p50). Bands: up to p99.");
  at("note").textContent = notes.join(" ");
  at("plot").setAttribute("aria-label", `${metric.title} of ${view.title}; the values are in the table below`);
  if (window.Plotly) {
    Plotly.react("plot", traces, layout(all, state), CONFIG);
  }
}

// ---- the choices

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => String(value) === before)) select.value = before;
  select.disabled = options.length < 2;
}

function offer() {
  const { views, contestants } = data;
  const once = (texts) => [...new Set(texts)].map((text) => [text, text || "none"]);
  fill(at("op"), once(views.map((view) => view.op)));
  const ofOp = views.filter((view) => view.op === at("op").value);
  fill(at("kind"), once(ofOp.map((view) => view.kind)));
  const ofKind = ofOp.filter((view) => view.kind === at("kind").value);
  fill(at("view"), ofKind.map((view) => [views.indexOf(view), view.place]));
  offerMetrics(views[Number(at("view").value)]);
  const { view, metric } = chosen();
  at("base-label").hidden = !metric.bases;
  at("base-label").firstElementChild.textContent = metric.label ?? "";
  fill(at("base"), (metric.bases?.(view) ?? []).map((curve) => [curve.who, contestants[curve.who].name]));
  offerContestants(view);
  draw();
}

function offerMetrics(view) {
  for (const input of document.querySelectorAll("input[name=metric]")) {
    const why = METRICS[input.value].without(view);
    input.disabled = Boolean(why);
    input.parentElement.title = why;
    if (why && input.checked) document.querySelector("input[value=latency]").checked = true;
  }
}

function offerContestants(view) {
  const box = at("contestants");
  box.replaceChildren(box.firstElementChild);
  for (const { who } of view.curves) {
    const label = element(box, "label");
    const input = element(label, "input");
    input.type = "checkbox";
    input.checked = !hidden.has(who);
    input.addEventListener("change", () => {
      hidden[input.checked ? "delete" : "add"](who);
      draw();
    });
    element(label, "span", "", `swatch ${data.contestants[who].dash}`).style.color = colour(who);
    element(label, "span", data.contestants[who].name);
  }
}

// ---- the table, and where it was measured

const place = (value) => (value === true ? "in" : value === false ? "out" : value);
const COLUMNS = [
  ["operation", "op"], ["contestant", "name"], ["transport", "transport"], ["type", "dtype"],
  ["reduction", "redop"], ["place", "in_place", place], ["ranks", "ranks", String], ["hosts", "hosts", String],
  ["size", "nbytes", size], ["p50", "seconds_p50", time], ["p99", "seconds_p99", time],
  ["fastest", "seconds_min", time], ["cv", "cv", percent], ["calls", "calls", String],
  ["algbw GB/s", "algbw", digits], ["busbw GB/s", "busbw", digits], ["#wrong", "nwrong", String],
  ["run", "run", String],
];
const WORDS = new Set(["op", "name", "transport", "dtype", "redop", "in_place"]);

function cell(value, write) {
  if (value === null || value === undefined) return "";
  return write === place || typeof value === "number" ? String((write ?? String)(value)) : String(value);
}

function showResults() {
  const head = document.querySelector("thead tr");
  for (const [title, key] of COLUMNS) element(head, "th", title, WORDS.has(key) ? "words" : "").scope = "col";
  const body = document.querySelector("tbody");
  for (const row of data.rows) {
    const line = element(body, "tr", "", row.nwrong > 0 ? "wrong" : "");
    for (const [, key, write] of COLUMNS) element(line, "td", cell(row[key], write), WORDS.has(key) ? "words" : "");
  }
}

function showRuns() {
  data.runs.forEach((facts, number) => {
    if (data.runs.length > 1) element(at("runs"), "h3", `Run ${number + 1}`);
    const list = element(at("runs"), "dl");
    for (const [name, value] of facts) {
      element(list, "dt", name);
      element(list, "dd", value);
    }
  });
}

function warn(text) {
  at("warning").hidden = false;
  at("warning").append(text, " ");
}

// The library is packed, a third of its size.
async function unpack(id) {
  const bytes = Uint8Array.from(atob(at(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

at("summary").textContent = data.summary;
if (data.wrong) warn(data.wrong);
showResults();
showRuns();
offer();
at("choices").addEventListener("change", offer);
at("choices").addEventListener("submit", (event) => event.preventDefault());
dark.addEventListener("change", offer);
unpack("plotly").then(draw, (error) => warn(`The curves cannot be drawn by this browser: ${error}`));
